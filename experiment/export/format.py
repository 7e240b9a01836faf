"""What every file format is: how a trained network becomes a file, and how that file is run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from experiment.run.failures import describe
from plugins import Plugin
from registry import Registry, UserError

if TYPE_CHECKING:
    import numpy as np

    from experiment.export.material import Material
    from experiment.run.folder import RunFolder

    Predict = Callable[[np.ndarray], np.ndarray]

FORMATS = Registry("file format")
REQUIREMENTS = "requirements-export.txt"


class UnfitError(UserError):
    """A format cannot hold a network, however often it is tried."""


class Format(Plugin):
    """A file format. Its fields are its settings.

    Attributes:
        file: the file's name in the run folder.
        runtime: the library that runs the file; files of one runtime are measured in one process.
        packages: what has to be installed besides the project's requirements: the names of the
            modules, and of the packages that ``pip install`` takes.
        tolerance: the largest difference of a probability from the student's, in 0..1; None: the
            file computes in other numbers, so that only its classes are compared.
        source: the network that it is made of and compared with: ``"student"``, or
            ``"quantized"``, its copy of quantisation-aware training.
    """

    file: ClassVar[str] = ""
    runtime: ClassVar[str] = ""
    packages: ClassVar[Mapping[str, str]] = {}
    tolerance: ClassVar[float | None] = 1e-3
    source: ClassVar[str] = "student"

    @property
    def calibrates_on(self) -> int:
        """How many training images the conversion takes, where there are so many."""
        return 0

    @property
    def least_calibration(self) -> int:
        """How many training images the conversion needs."""
        return self.calibrates_on

    def specification(self) -> str:
        """The format with all its settings, as the command line takes it."""
        inside = ",".join(f"{name}={value}" for name, value in self.settings().items())
        return f"{self.name}({inside})" if inside else self.name

    def check_packages(self) -> None:
        """Raise UserError where something is missing that has to be installed."""
        missing = [
            package for module, package in self.packages.items()
            if importlib.util.find_spec(module) is None
        ]
        if missing:
            raise UserError(
                f"the format {self.name} needs {' and '.join(missing)}, not installed here: "
                f"pip install {' '.join(missing)} (for all formats: pip install -r {REQUIREMENTS})"
            )

    def place(self, folder: RunFolder) -> Path:
        """Where the file lies in a run folder, which notes it as written by the run."""
        return folder.output(self.file)

    def convert(self, material: Material, path: Path) -> None:
        """Write the file. Runs in a process of its own.

        Args:
            material: the network and what belongs to it.
            path: to write to.

        Raises:
            UnfitError: the format has no way to compute something that the network does.
        """
        raise NotImplementedError

    def open(self, path: Path, threads: int) -> Predict:
        """Load the file for its own interpreter.

        Args:
            path: what `convert` wrote.
            threads: to compute with.

        Returns:
            From raw images uint8 ``[N, H, W, C]``, N >= 1, to probabilities float32
            ``[N, classes]``.
        """
        raise NotImplementedError


def refusal(error: Exception, name: str) -> Exception:
    """What to raise for an error that a converter raised: that the format cannot hold the network,
    or the error itself where it is one of files, disk or memory.

    Args:
        error: the error; the message quotes its first 300 characters.
        name: of the format.
    """
    if describe(error) is not None:
        return error
    text = " ".join(str(error).split())
    return UnfitError(f"{name}: it cannot hold the network: {type(error).__name__}: {text[:300]}")


def check_distinct(formats: list[Any]) -> None:
    """Raise UserError where two formats would write the same file."""
    files = [form.file for form in formats]
    for form in formats:
        if files.count(form.file) > 1:
            raise UserError(f"the format {form.name} is given twice: give it once")
