"""Open, list and read files of unknown origin safely."""

from __future__ import annotations

import codecs
import errno
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from registry import UserError
from regular_files import read_bytes

_BYTE_ORDER_MARKS = (  # UTF-32 before UTF-16: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def printable(path: str | Path) -> str:
    """`path` for a one-line message: control characters and invalid UTF-8 are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        each.encode("unicode_escape").decode() if unicodedata.category(each) == "Cc" else each
        for each in text
    )


def decode_text(contents: bytes, encoding: str = "utf-8") -> str:
    """Decode text in the encoding of its byte order mark, or else in `encoding`.

    Raises:
        UnicodeDecodeError: the bytes are not text in this encoding.
        LookupError: the encoding is unknown.
    """
    for mark, marked in _BYTE_ORDER_MARKS:
        if contents.startswith(mark):
            return contents[len(mark):].decode(marked)
    return contents.decode(encoding)


def read_lines(path: Path) -> list[str]:
    """The non-empty lines of a text file, without surrounding blanks.

    Raises:
        UserError: the file cannot be read, is not Unicode text or has control characters.
    """
    try:
        text = decode_text(read_bytes(path))
    except OSError as error:
        raise UserError(f"{printable(path)}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{printable(path)} is not {error.encoding} text (byte {error.start}): save it as UTF-8"
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if any(unicodedata.category(each) == "Cc" for each in line.replace("\t", " ")):
            raise UserError(
                f"{printable(path)} has control characters ({printable(line)[:40]!r}): save it as "
                "UTF-8 text with one name per line"
            )
    return lines


@dataclass(frozen=True)
class Listing:
    """The contents of a folder, at any depth.

    Attributes:
        files: paths of regular files, relative to the folder, sorted by their parts.
        others: paths of everything that is neither file nor folder (pipes, broken links).
        folders: of the folder itself and of all folders below it, by path, when it was changed, in
            ns, as was found before it was listed.
    """

    files: list[str]
    others: list[str]
    folders: dict[str, int]


def list_files(folder: str | Path) -> Listing:
    """List a folder at any depth. Hidden files and folders are skipped; links are followed.

    Raises:
        OSError: a folder cannot be read, or a link leads to a folder that contains it.
    """
    top = os.fspath(folder)
    files, others, folders, left = [], [], {}, [""]
    while left:
        inner = left.pop()
        path = os.path.join(top, inner) if inner else top
        folders[path] = os.stat(path).st_mtime_ns
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                relative = f"{inner}/{entry.name}" if inner else entry.name
                if not entry.is_dir():
                    (files if entry.is_file() else others).append(relative)
                    continue
                if entry.is_symlink():
                    _check_no_loop(entry.path)
                left.append(relative)
    return Listing(sorted(files, key=lambda file: file.split("/")), sorted(others), folders)


def _check_no_loop(link: str) -> None:
    target = os.path.realpath(link)
    holder = os.path.realpath(os.path.dirname(link))
    if os.path.commonpath([target, holder]) == target:
        raise OSError(errno.ELOOP, "links to a folder that contains it", link)


def subfolders(folder: Path) -> Iterator[str]:
    """The sorted names of the folders in `folder`, without hidden ones. Raises OSError."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
    yield from sorted(names)
