"""The settings that name file formats, which training and exporting share."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiment.command.options import Options, option
from experiment.export import formats  # noqa: F401 (registers them; loads no TensorFlow)
from experiment.export.format import FORMATS as REGISTRY
from experiment.export.format import Format, check_distinct
from settings.plugin_kinds import Kind

EXPORT = "export"
FORMATS = Kind(
    "file format", "experiment.export.formats", "experiment.export.format", "FORMATS", EXPORT,
    prefixed=False,
)
TEST_IMAGES = 10_000  # to measure files on, at most
NAMES = ", ".join(REGISTRY.names())


@dataclasses.dataclass(frozen=True)
class ExportSettings(Options):
    """Files that are written of a trained student."""

    min_agreement: float = option(
        0.9, "smallest share of the test images on which a file must agree with the student; a "
        "file below it is removed, and the command fails", group=EXPORT, minimum=0, maximum=1,
        same_run=True,
    )


def create_formats(text: str, hyper_parameters: dict[str, Any] | None = None) -> list[Format]:
    """The formats in ``"litert,onnx(opset=15)"``.

    Raises:
        UserError: there is no such format or setting, two write the same file, or a package that
            one needs is not installed.
    """
    created = FORMATS.create(text, hyper_parameters or {})
    check_distinct(created)
    for each in created:
        each.check_packages()
    return created
