"""LiteRT in int8, for phones, accelerators and microcontrollers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiment.export import litert_files
from experiment.export.format import FORMATS
from experiment.export.formats.litert import LiteRT
from plugins import option

if TYPE_CHECKING:
    from experiment.export.material import Material

_USUAL, _FEWEST = 500, 100


@FORMATS.register("litert-int8")
class LiteRTInt8(LiteRT):
    """``student-int8.tflite``: int8 weights (one scale a channel) and activations, quantised after
    training. Images go in as uint8 0..255, probabilities come out as uint8 of scale 1/256.

    Args:
        calibration_images: training images, by which the ranges of the activations are measured.
            None: 500, or all where there are fewer, but 100 at least.
    """

    file = "student-int8.tflite"
    tolerance = None

    calibration_images: int | None = option(None, minimum=_FEWEST)

    @property
    def calibrates_on(self) -> int:
        return self.calibration_images or _USUAL

    @property
    def least_calibration(self) -> int:
        return self.calibration_images or _FEWEST

    def convert(self, material: Material, path: Path) -> None:
        model = material.serving_model(for_integers=True)
        litert_files.write_int8(model, path, self.name, material.calibration)
