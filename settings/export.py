"""The settings of an export: the flags of export.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiment.command.main import read
from experiment.command.options import define_flags as define_options
from experiment.command.options import from_flags, option
from experiment.export.format import Format
from registry import UserError
from settings.formats import (
    EXPORT,
    FORMATS,
    NAMES,
    TEST_IMAGES,
    ExportSettings,
    create_formats,
)
from settings.known import IN_MEMORY
from settings.plugin_kinds import define_flags, given_by_flags, resolve

DEFAULT = "litert,litert-int8,onnx"


@dataclasses.dataclass(frozen=True)
class Settings(ExportSettings):
    """The settings; each field but the last is the flag of its name.

    Attributes:
        hyper_parameters: of the formats, by flag, such as ``{"opset": 15}``.
    """

    run: str = option(
        "", "the folder of a finished run of train_w_distill.py; export.py FOLDER is the same as "
        "export.py --run FOLDER",
        group=EXPORT, is_path=True,
    )
    formats: str = option(
        DEFAULT, "the file formats, separated by commas, each NAME or "
        f"NAME(hyper_parameter=value,...): {NAMES}", group=EXPORT,
    )
    test_images: int = option(
        TEST_IMAGES, "measure on at most this many test images, and at most 1 GiB of them",
        group=EXPORT, minimum=1,
    )
    dataset: str | None = option(
        None, "the run's data set, if it has moved", group=EXPORT
    )
    data_dir: str | None = option(
        None, "where tensorflow-datasets keeps its data, if not where the run found it",
        group=EXPORT, is_path=True,
    )
    in_memory: str = option(
        "auto", "as for train_w_distill.py; the run's own choice does not count, as this may be "
        "another computer", group=EXPORT, choices=IN_MEMORY,
    )

    dry_run: bool = option(
        False, "say what would be written, and write nothing", group=EXPORT
    )

    hyper_parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def checked(self) -> Settings:
        """The same settings. Raises UserError where they are wrong."""
        if not self.run:
            raise UserError(
                "no run is given: expected the folder of a finished run, as in python export.py "
                "runs/RUN"
            )
        if not self.create_formats():
            raise UserError(f"--formats is empty; expected some of {NAMES}")
        return self

    def of_host(self) -> dict[str, str]:
        """Where the data are and stay, by the names of the run's settings."""
        given = {"dataset": self.dataset, "data_dir": self.data_dir, "in_memory": self.in_memory}
        return {name: value for name, value in given.items() if value is not None}

    def create_formats(self) -> list[Format]:
        """The formats. Raises UserError where they are wrong, or no format has one given."""
        resolve({FORMATS: self.formats}, self.hyper_parameters)
        return create_formats(self.formats, dict(self.hyper_parameters))


def define() -> None:
    """Define the flags."""
    define_options(Settings)
    define_flags([FORMATS])


def given_settings() -> Settings:
    """The settings that the command line gives, by the flags of `define`."""
    return from_flags(Settings, hyper_parameters=given_by_flags([FORMATS])).checked()


def read_settings(description: str) -> Settings:
    """The settings that the command line gives, or the end of the process (see `main.read`)."""
    return read(description, define, given_settings, positional="run")
