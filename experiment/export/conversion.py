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
from experiment.export.format import FORMATS, Format, UnfitError
from experiment.export.processes import UNFIT, import_modules_with_layers, run_module


def convert(form: Format, folder: Path, path: Path) -> None:
    """Write a file.

    Args:
        form: the format.
        folder: what `Material.write` wrote.
        path: to write to.

    Raises:
        UnfitError: the format cannot hold the network.
        UserError: the converter failed otherwise.
    """
    module = "experiment.export.conversion"
    run_module(module, [form.specification(), str(folder), str(path)], f"converting to {form.name}")


def main(specification: str, folder: str, path: str) -> int:
    """Write a file in this process. Exit status: `UNFIT` where the format cannot hold a network."""
    from experiment.command import quiet  # noqa: F401 (loads TensorFlow)
    from experiment.export.material import Material

    import_modules_with_layers()
    form = plugins.create(FORMATS, specification)
    try:
        form.convert(Material.read(Path(folder)), Path(path))
    except UnfitError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return UNFIT
    return 0


if __name__ == "__main__":
    run(main, *sys.argv[1:])
