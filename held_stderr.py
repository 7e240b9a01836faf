"""What libraries written in C++ print to the process' stderr, held back and sorted."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

_REAL = [2]


def real_stderr() -> int:
    """The descriptor of what the user sees, for last words before `os._exit`: what is held back
    would be lost then."""
    return _REAL[:2][-1]  # of the outermost: within an inner one, stderr is held back already


@contextlib.contextmanager
def held_stderr(is_kept: Callable[[bytes], bool]) -> Iterator[None]:
    """Hold back what is written to the process' stderr within this context; of it, write at the
    end the lines that are kept.

    A crash of the process is still reported at once.

    Args:
        is_kept: of a line with its line break; it is called for each, in order, at the end.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    already = faulthandler.is_enabled()
    if not already:  # otherwise a crash here would be silent
        faulthandler.enable(stderr)
    with tempfile.TemporaryFile() as held:
        _REAL.append(stderr)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            _REAL.remove(stderr)
            if not already:
                faulthandler.disable()
            held.seek(0)
            for line in held:
                if is_kept(line):
                    os.write(2, line)
            os.close(stderr)
