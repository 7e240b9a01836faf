"""The settings of detection data, which evaluation and pre-training share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from experiment.command.options import option
from registry import UserError
from settings import known
from settings.common import DataSettings

if TYPE_CHECKING:
    import dataloader

DETECTION = "scenes"


@dataclasses.dataclass(frozen=True)
class SceneSettings(DataSettings):
    """The images with boxes."""

    scenes: str | None = option(
        None, "detection data: digits (on a canvas), voc:DIR, voc/2007 or another detection set of "
        "tensorflow-datasets (default: --dataset where it is one, else digits)", group=DETECTION,
    )
    images: str | None = option(
        None, "the folder of voc:DIR's images (default: JPEGImages in DIR)", group=DETECTION
    )
    annotations: str | None = option(
        None, "the folder of voc:DIR's annotations (default: Annotations in DIR)", group=DETECTION
    )
    scene_size: int | None = option(
        None, "resize scenes to this height and width, in pixels (default: 64 for digits, else "
        "160)", group=DETECTION, minimum=32,
    )
    scene_classes: tuple[str, ...] = option(
        (), "classes of voc:DIR (default: those of at least two training images)", group=DETECTION
    )
    max_bad: int = option(
        10, "faulty images of voc:DIR that are left out before the set is refused",
        group=DETECTION, minimum=0,
    )

    def scenes_name(self) -> str:
        """The detection data."""
        return self.scenes or (self.dataset if known.is_scenes(self.dataset) else "digits")

    def load_scenes(self) -> dataloader.Scenes:
        """The detection data; see `dataloader.load_scenes`."""
        import dataloader

        size = self.scene_size
        folders = {"images": self.images, "annotations": self.annotations}
        return dataloader.load_scenes(
            self.scenes_name(),
            size=size and (size, size),
            seed=self.data_seed,
            max_bad=self.max_bad,
            class_names=self.scene_classes,
            data_dir=self.data_dir,
            **{key: folder for key, folder in folders.items() if folder is not None},
        )

    def check_scenes(self) -> None:
        """Raise UserError if the settings of detection data do not go together."""
        if (self.images or self.annotations) and not (
            self.scenes or self.dataset
        ).lower().startswith("voc:"):
            raise UserError(
                "--images and --annotations are folders of voc:DIR: give --scenes voc:DIR"
            )
