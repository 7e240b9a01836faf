"""Processes for work that may crash, leak memory, or needs a number of threads of its own."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence

from experiment.export.format import UnfitError
from registry import UserError

_MODULES = "MODULES_WITH_LAYERS"  # for the process, with commas between them
_KNOWN = ("keras", "keras_hub")  # whose layers Keras finds by itself
UNFIT = 3  # the exit status after an UnfitError, see `experiment.export.conversion`
# By exit status; 2 is that of `experiment.command.main.run`.
_ERRORS = {2: UserError, UNFIT: UnfitError}


def run_module(module: str, words: Sequence[str], what: str) -> None:
    """Run ``python -m module words...`` on the CPU alone, and wait for its end. The GPUs' memory is
    the caller's, and files are measured on one processor, which the card names.

    Args:
        module: ends by `experiment.command.main.run`.
        words: its arguments.
        what: is done there, for error messages.

    Raises:
        UserError: the one that was raised there; or the process ended in another way.
    """
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        _MODULES: ",".join(modules_with_layers()),
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *words], env=environment, capture_output=True, text=True,
        errors="replace",
    )
    if done.returncode == 0:
        return
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if done.returncode in _ERRORS and said and said[-1].startswith("error: "):
        raise _ERRORS[done.returncode](said[-1].removeprefix("error: "))
    how = f"exit status {done.returncode}"
    if done.returncode < 0:
        how = signal.Signals(-done.returncode).name
    last = f": {said[-1][:300]}" if said else ""
    raise UserError(f"{what} failed, its process ended by {how}{last}")


# Layers of a person's own


def modules_with_layers() -> list[str]:
    """The modules whose classes and functions were registered with Keras in this process, which
    another process has to import before it loads a network with them."""
    import keras

    names = {each.__module__ for each in keras.saving.get_custom_objects().values()}
    return sorted(name for name in names if name.partition(".")[0] not in ("__main__", *_KNOWN))


def import_modules_with_layers() -> None:
    """Import, in a process that `run_module` has started, what the process that started it had."""
    for name in filter(None, os.environ.get(_MODULES, "").split(",")):
        # A network that needs the module is refused, when it is loaded, by the layer's name.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def check_layers(layers: Iterable[object]) -> None:
    """Raise UserError where another process could not load a network with these layers."""
    for layer in layers:
        kind = type(layer)
        if kind.__module__ == "__main__":
            raise UserError(
                f"layer {layer.name!r} is of a class of the script that runs, {kind.__name__}, "
                "which the processes that write and measure files cannot import: put the class "
                "into a module of its own, or leave export out"
            )
