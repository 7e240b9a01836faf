"""A SavedModel for TensorFlow Serving, as every run writes it at its end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from experiment.export.format import FORMATS, Format

if TYPE_CHECKING:
    from experiment.export.format import Predict
    from experiment.export.material import Material
    from experiment.run.folder import RunFolder


@FORMATS.register("saved_model")
class SavedModel(Format):
    """``export/1``: a folder with ``saved_model.pb``, whose signature also returns class names."""

    file = "export/1"
    runtime = "tensorflow"

    def place(self, folder: RunFolder) -> Path:
        from experiment.run.export import FILES

        return folder.directory(self.file, *FILES)

    def convert(self, material: Material, path: Path) -> None:
        from experiment.run.export import export_saved_model, named_classification

        export_saved_model(
            material.student,
            path,
            image_shape=material.image_shape,
            **dataclasses.asdict(material.preprocessing),
            outputs=named_classification(material.class_names),
            class_names=material.class_names,
        )

    def open(self, path: Path, threads: int) -> Predict:
        import numpy as np
        import tensorflow as tf

        from experiment.export.tensorflow_threads import use_threads

        use_threads(threads)
        loaded = tf.saved_model.load(str(path))
        serve = loaded.signatures["serving_default"]

        def predict(images):
            assert loaded is not None  # the signature does not keep the weights alive
            if images.max() <= 1:  # taken for floats in 0..1: one pixel makes it a black image
                images = np.array(images)
                images[:, 0, 0, 0] = 2
            return serve(image=tf.constant(images))["probabilities"].numpy()

        return predict
