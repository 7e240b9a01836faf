"""A Keras model with the preprocessing inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiment.export.format import FORMATS, Format
from experiment.export.processes import import_modules_with_layers

if TYPE_CHECKING:
    from experiment.export.format import Predict
    from experiment.export.material import Material


@FORMATS.register("keras")
class KerasFile(Format):
    """``student-raw.keras``: raw images in, probabilities out, for `keras.saving.load_model`.

    It holds the student's layers and Keras' own. ``student.keras`` takes preprocessed images and
    gives logits.
    """

    file = "student-raw.keras"
    runtime = "tensorflow"

    def convert(self, material: Material, path: Path) -> None:
        from nets import write_class_names

        material.serving_model().save(path)
        write_class_names(path, material.class_names)

    def open(self, path: Path, threads: int) -> Predict:
        import tensorflow as tf

        from experiment.export.tensorflow_threads import use_threads
        from nets.stored import load_model

        use_threads(threads)
        import_modules_with_layers()
        model = load_model(path)
        predict = tf.function(lambda image: model(image, training=False), autograph=False)
        return lambda images: predict(tf.constant(images)).numpy()
