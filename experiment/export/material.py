"""What a file is made of: the network and what belongs to it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np

from nets import Standardize
from nets.stored import load_model

from .serving import serving_model

_STUDENT, _CALIBRATION, _FACTS = "student.keras", "calibration.npy", "facts.json"


@dataclasses.dataclass(frozen=True)
class Material:
    """The network and what belongs to it, for one file.

    Attributes:
        student: functional, from preprocessed images to logits, float32.
        preprocessing: of the student.
        image_shape: (H, W, C) of the raw images.
        class_names: in the order of the logits.
        calibration: training images, uint8 ``[N, H, W, C]``; None: there are none.
    """

    student: keras.Model
    preprocessing: Standardize
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    calibration: np.ndarray | None = None

    def with_student(self, student: keras.Model) -> Material:
        """The same with another student."""
        return dataclasses.replace(self, student=student)

    def serving_model(self, for_integers: bool = False) -> keras.Model:
        """From raw images to probabilities; see `serving.serving_model`."""
        return serving_model(
            self.student, self.preprocessing, self.image_shape, for_integers=for_integers
        )

    def write(self, folder: Path) -> None:
        """Write all of it to a folder, for another process."""
        folder.mkdir()
        self.student.save(folder / _STUDENT)
        if self.calibration is not None:
            np.save(folder / _CALIBRATION, self.calibration)
        facts = {
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "image_shape": list(self.image_shape),
            "class_names": list(self.class_names),
        }
        (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Material:
        """What `write` wrote."""
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        stated, calibration = facts["preprocessing"], folder / _CALIBRATION
        return cls(
            load_model(folder / _STUDENT),
            Standardize(
                tuple(stated["mean"]), tuple(stated["deviation"]),
                stated["size"] and tuple(stated["size"]), stated["reverses"],
            ),
            tuple(facts["image_shape"]),
            tuple(facts["class_names"]),
            np.load(calibration) if calibration.exists() else None,
        )
