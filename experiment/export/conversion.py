"""Converting a network to a file, in a process of its own: converters leak memory and can crash.

    python -m experiment.export.conversion FORMAT FOLDER PATH

writes the file PATH of the material in FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path

import plugins
from experiment.command.main import run
from experiment.export import formats  # noqa: F401 (registers them)
from experiment.export.format import FORMATS, Format
from experiment.export.processes import import_modules_with_layers, run_module


def convert(form: Format, folder: Path, path: Path) -> None:
    """Write a file.

    Args:
        form: the format.
        folder: what `Material.write` wrote.
        path: to write to.

    Raises:
        UserError: the format cannot hold the network, or the converter crashed.
    """
    module = "experiment.export.conversion"
    run_module(module, [form.specification(), str(folder), str(path)], f"converting to {form.name}")


def main(specification: str, folder: str, path: str) -> None:
    """Write a file in this process."""
    from experiment.command import quiet  # noqa: F401 (loads TensorFlow)
    from experiment.export.material import Material

    import_modules_with_layers()
    form = plugins.create(FORMATS, specification)
    form.convert(Material.read(Path(folder)), Path(path))


if __name__ == "__main__":
    run(main, *sys.argv[1:])
