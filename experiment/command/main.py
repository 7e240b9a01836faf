"""Start and end every script: user errors are reported in one line, without a traceback.

Every script does this::

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

from experiment.command.flag_files import with_flag_files
from experiment.command.options import help_text
from experiment.run.failures import describe, write_traceback
from experiment.run.interruption import RESUME, Interrupted
from registry import UserError

Settings = TypeVar("Settings")
_HELP = ("--help", "-help", "-h", "--h")


def read(
    description: str,
    define: Callable[[], None],
    make: Callable[[], Settings],
    positional: str | None = None,
) -> Settings:
    """Read the settings from the command line.

    ``--help`` ends the process with status 0, a user error with status 2. Call this before
    importing TensorFlow, to answer at once.

    Args:
        description: what the script does, for ``--help``.
        define: defines the flags.
        make: makes the settings from `absl.flags.FLAGS`.
        positional: the flag that a word without ``--`` sets; None: there is none.
    """
    sys.excepthook = _one_line_when_interrupted
    define()
    try:
        _parse(description, positional)
        return make()
    except (UserError, flags.Error) as error:
        _refuse(error)
    except BrokenPipeError:
        _leave_closed_pipe()


def run(main: Callable[..., int | None], *settings: Any) -> NoReturn:
    """Call ``main(*settings)`` and end the process.

    The exit status is the return value of `main` (None is 0); 2 after a `registry.UserError` or a
    failure of files, disk or memory, reported on stderr in one line, ``error: ...``; 130 or 143
    after Ctrl-C or SIGTERM.

    Args:
        main: the script's main function.
        *settings: the settings from `read`. If there are none, the defined flags are parsed first,
            and `main` gets a list with the script's name.
    """
    try:
        sys.exit(main(*(settings or [_parse(sys.modules["__main__"].__doc__ or "")])))
    except (UserError, flags.Error) as error:
        _refuse(error)
    except Interrupted as interruption:  # whoever raised it has printed what to do next
        sys.exit(interruption.exit_status)
    except BrokenPipeError:
        _leave_closed_pipe()
    except KeyboardInterrupt:
        print(f"interrupted; {RESUME}", file=sys.stderr, flush=True)
        sys.exit(130)
    except Exception as error:
        failure = describe(error)
        if failure is None:
            raise
        _refuse(UserError(f"{failure}; details: {write_traceback(error)}"))


def _parse(description: str, positional: str | None = None) -> list[str]:
    """Parse the command line into ``absl.flags.FLAGS``. Returns a list with the script's name."""
    flags.FLAGS.set_gnu_getopt(True)  # flags may stand after a word
    if any(argument in _HELP for argument in sys.argv[1:]):
        print(help_text(description))
        sys.exit(0)
    given = [*sys.argv[:1], *with_flag_files(sys.argv[1:])]
    try:
        words = flags.FLAGS(given)
    except ValueError as error:  # absl's, of --noNAME=VALUE
        raise UserError(str(error)) from None
    if positional and len(words) == 2 and not flags.FLAGS[positional].present:
        flags.FLAGS[positional].parse(words.pop())
    if len(words) > 1:
        raise UserError(
            f"unexpected argument {words[1]!r}; give every setting as a flag, --NAME=VALUE, and "
            "every switch as --NAME or --noNAME"
        )
    return words


def _refuse(error: Exception) -> NoReturn:
    if isinstance(error, flags.Error) and isinstance(error.__context__, UserError):
        error = error.__context__  # absl's message would repeat flag and value
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(2)


def _leave_closed_pipe() -> NoReturn:
    """End as shells expect after the reader has closed the pipe, as in ``... | head``."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for output not yet flushed
    sys.exit(128 + signal.SIGPIPE)


def _one_line_when_interrupted(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """For `sys.excepthook`: Ctrl-C during imports also prints just one line."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
    else:
        sys.__excepthook__(kind, error, traceback)
