"""The flags in the files that ``--flagfile`` names, in place of absl's own reading: a file that is
none, no text, or names itself is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from registry import UserError
from regular_files import read_bytes

MOST_BYTES = 1_000_000
_NAMES = ("--flagfile", "-flagfile")


def with_flag_files(words: Sequence[str], within: Sequence[str] = ()) -> list[str]:
    """A command line with the lines of its flag files in their place.

    A line is a flag; empty lines and those that begin with ``#`` or ``//`` are left out. A file may
    name others.

    Args:
        words: of the command line or of a file.
        within: the files in which these words are.

    Raises:
        UserError: a file cannot be read, is not UTF-8 text, or includes itself.
    """
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        name, given, value = word.partition("=")
        if word == "--":  # what follows is no flag
            return [*found, word, *rest]
        if name not in _NAMES:
            found.append(word)
            continue
        if not given:
            value = next(rest, "")
        if not value:
            raise UserError("--flagfile names no file; expected a text file with a flag a line")
        file = os.path.realpath(os.path.expanduser(value))
        if file in within:
            raise UserError(f"--flagfile={value}: the file names itself")
        found += with_flag_files(list(_lines(file)), [*within, file])
    return found


def _lines(file: str) -> Iterator[str]:
    try:
        text = read_bytes(file, MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UserError(
            f"--flagfile={file}: {error.strerror or error}; expected a text file with a flag a line"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"--flagfile={file} is not UTF-8 text: {error}"
        ) from None
    for line in map(str.strip, text.splitlines()):
        if "\0" in line:
            raise UserError(f"--flagfile={file} has a line with a zero byte; save it as UTF-8 text")
        if line and not line.startswith(("#", "//")):
            yield line
