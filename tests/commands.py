"""What the tests of scripts share: a script called within this process, as from a command line."""

import contextlib
import sys
from types import SimpleNamespace

import pytest
from absl import flags

from experiment.main import run


@contextlib.contextmanager
def own_flags(define):
    """The flags that ``define()`` makes, not yet read from any command line; gone afterwards."""
    others = set(flags.FLAGS)
    define()
    flags.FLAGS.unparse_flags()
    try:
        yield
    finally:
        for name in set(flags.FLAGS) - others:
            delattr(flags.FLAGS, name)


def caller(name, define, main, monkeypatch, capsys):
    """``call(*arguments)`` gives status, out and err of the script `name`."""

    def call(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with own_flags(define), pytest.raises(SystemExit) as end:
            run(main)
        out, err = capsys.readouterr()
        return SimpleNamespace(status=end.value.code or 0, out=out, err=err)

    return call
