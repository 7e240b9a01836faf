"""How every script begins and ends: a mistake takes one line, without a traceback.

settings = read(__doc__, define, lambda: from_flags(Settings))
run(main, settings)
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from absl import flags

from experiment.command.options import help_text
from experiment.run.failures import describe, write_traceback
from experiment.run.interruption import Interrupted
from registry import UserError

Settings = TypeVar("Settings")
_HELP = ("--help", "-help", "-h", "--h")
_RESUME = "interrupted; rerun the same command to resume from the last checkpoint"


def read(description: str, define: Callable[[], None], make: Callable[[], Settings]) -> Settings:
    """What the command line asks for, or the end of the process: status 0 after ``--help``, 2 after
    a mistake.

    Call it before TensorFlow is imported, so that the answer comes at once.

    Args:
        description: what the script does, for ``--help``.
        define: defines the flags.
        make: makes the settings of `absl.flags.FLAGS`.
    """
    sys.excepthook = _one_line_when_interrupted
    define()
    try:
        _parse(description)
        return make()
    except (UserError, flags.Error) as error:
        _refuse(error)
    except BrokenPipeError:
        _leave_closed_pipe()


def run(main: Callable[..., int | None], *settings: Any) -> NoReturn:
    """Call ``main(*settings)`` and end the process.

    Exit status: what `main` returns (None is 0); 2 after a `registry.UserError`, or where files,
    disk or memory failed, each reported as ``error: ...`` in one line on stderr; 130 or 143 after
    Ctrl-C or SIGTERM.

    Args:
        main: the script.
        *settings: of `read`. Without, the flags that are defined are parsed first, and `main` gets
            the script's name in a list.
    """
    try:
        sys.exit(main(*(settings or [_parse(sys.modules["__main__"].__doc__ or "")])))
    except (UserError, flags.Error) as error:
        _refuse(error)
    except Interrupted as interruption:  # what to do next was printed where it was raised
        sys.exit(interruption.exit_status)
    except BrokenPipeError:
        _leave_closed_pipe()
    except KeyboardInterrupt:
        print(_RESUME, file=sys.stderr, flush=True)
        sys.exit(130)
    except Exception as error:
        failure = describe(error)
        if failure is None:
            raise
        _refuse(UserError(f"{failure}; details: {write_traceback(error)}"))


def _parse(description: str) -> list[str]:
    """Parse the command line into ``absl.flags.FLAGS``; the script's name in a list."""
    if any(argument in _HELP for argument in sys.argv[1:]):
        print(help_text(description))
        sys.exit(0)
    try:
        words = flags.FLAGS(list(sys.argv))
    except UnicodeDecodeError as error:
        raise UserError(f"the file that --flagfile names is no text in UTF-8: {error}") from None
    if len(words) > 1:
        raise UserError(
            f"unexpected argument {words[1]!r}; every setting is a flag, --NAME=VALUE, and a "
            "switch is --NAME or --noNAME"
        )
    return words


def _refuse(error: Exception) -> NoReturn:
    if isinstance(error, flags.Error) and isinstance(error.__context__, UserError):
        error = error.__context__  # absl would state flag and value a second time
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(2)


def _leave_closed_pipe() -> NoReturn:
    """End as shells expect where nobody reads on, as in ``... | head``."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed
    sys.exit(128 + signal.SIGPIPE)


def _one_line_when_interrupted(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """`sys.excepthook`: Ctrl-C while modules are being imported leaves one line too."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
    else:
        sys.__excepthook__(kind, error, traceback)
