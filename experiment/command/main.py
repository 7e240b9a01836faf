"""Entry of every script: mistakes of the person at the keyboard take one line, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from absl import app, flags

from experiment.command.options import help_text
from experiment.run.interruption import Interrupted
from registry import UserError


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _refuse(error: Exception) -> None:
    print(f"error: {_one_line(error)}", file=sys.stderr, flush=True)
    sys.exit(2)


def _parse(arguments: Sequence[str]) -> list[str]:
    """Parse the command line into ``absl.flags.FLAGS``, or end the process.

    ``--help`` lists the script's own flags by group, see `options.option`.
    """
    if any(argument in ("--help", "-help", "-h", "--h") for argument in arguments[1:]):
        print(help_text(sys.modules["__main__"].__doc__ or ""))
        sys.exit(0)
    try:
        return flags.FLAGS(list(arguments))
    except flags.Error as error:
        _refuse(error)
    except SystemExit:
        sys.exit(0)


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parse the flags, call `main` with what is left of the command line, end the process.

    Exit status: what `main` returns (None is 0); 2 after a wrong flag or a `registry.UserError`,
    told as ``error: ...`` in one line on stderr; 130 or 143 after Ctrl-C or SIGTERM.

    Args:
        main: takes ``[script name]``; further words on the command line are refused.
    """

    def guarded(arguments: list[str]) -> int | None:
        try:
            if len(arguments) > 1:
                raise UserError(
                    f"unexpected argument {arguments[1]!r}; every setting is a flag, --NAME=VALUE"
                )
            return main(arguments)
        except (UserError, flags.Error, app.UsageError) as error:
            _refuse(error)
        except Interrupted as interruption:  # what to do next was printed where it was raised
            sys.exit(interruption.exit_status)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from the last checkpoint",
                  file=sys.stderr, flush=True)
            sys.exit(130)

    app.run(guarded, flags_parser=_parse)
