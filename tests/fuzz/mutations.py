"""Ways to spoil an input. All that is random comes from a generator, so that a seed repeats it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

Bytes = Callable[[Random, bytes], bytes]

ODD_NUMBERS = (
    0, -1, 1, 2, 0.5, -0.0, 1e308, -1e308, 5e-324, 2**31, 2**53, 2**63, 2**64, 10**30,
    float("nan"), float("inf"), float("-inf"),
)
ODD_TEXTS = (
    "", " ", "\0", "\n", "a\nb", "\r", "\t", "\x1b[31m", "..", "../../../etc/passwd", "/etc/passwd",
    "/dev/zero", "C:\\x", "~", "~nobody", "*", "[", "ü", "日本語", "\u202e", "\ufeff", "\udcff",
    "%s%n", "{}", "{0.__class__}", "nan", "None", "true", "0", "-1", "1e309", "x" * 300,
    "x" * 100_000, "a/b", "a,b", "a;b", "a(b=1)", "'", '"',
)  # fmt: skip
ODD_VALUES = (None, True, False, *ODD_NUMBERS, *ODD_TEXTS, [], {}, [[]], [None], {"": 0})


# Bytes


def flip_bits(random: Random, content: bytes) -> bytes:
    """One to twenty bits are another."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 3, 20)) if changed else 0):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncate(random: Random, content: bytes) -> bytes:
    """Cut off anywhere, often near an end."""
    cut = random.randrange(len(content) + 1)
    return content[: random.choice((cut, min(cut, 20), max(len(content) - 1 - cut % 20, 0)))]


def overwrite(random: Random, content: bytes) -> bytes:
    """A range is of zeros, of ones, of noise, or of another place."""
    if not content:
        return content
    start = random.randrange(len(content))
    length = min(random.choice((1, 4, 16, 512)), len(content) - start)
    other = random.randrange(len(content) - length + 1)
    new = random.choice((
        bytes(length), b"\xff" * length, random.randbytes(length), content[other : other + length]
    ))
    return content[:start] + new + content[start + length :]


def insert(random: Random, content: bytes) -> bytes:
    """Something is put in between."""
    place = random.randrange(len(content) + 1)
    new = random.choice((
        random.randbytes(random.choice((1, 100))), b"\0" * 8, b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n",
        content[place : place + 200], "ü".encode("latin-1"),
    ))
    return content[:place] + new + content[place:]


def replace_all(random: Random, content: bytes) -> bytes:
    """Something else altogether."""
    return random.choice((
        b"", b"\n", b"\0", random.randbytes(1000), b"[" * 100_000, b'{"a":' * 100_000, b"null",
        b"PK\x03\x04" + random.randbytes(200), b"\x89HDF\r\n\x1a\n" + random.randbytes(200),
        b"\x89PNG\r\n\x1a\n" + random.randbytes(60), b"\xff\xd8\xff\xe0" + random.randbytes(60),
        "text ünd mehr\n".encode("utf-16"), b"MATLAB 5.0" + random.randbytes(300),
    ))  # fmt: skip


BYTES: tuple[Bytes, ...] = (flip_bits, flip_bits, truncate, overwrite, overwrite, insert,
                            replace_all)


def mutate_bytes(random: Random, content: bytes) -> bytes:
    """One to three of the above."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        content = random.choice(BYTES)(random, content)
    return content


# What is no file


def remove(path: Path) -> None:
    """Nothing is there."""
    path.unlink()


def to_folder(path: Path) -> None:
    """A folder is there."""
    path.unlink()
    path.mkdir()


def to_pipe(path: Path) -> None:
    """A named pipe is there, into which nobody writes."""
    path.unlink()
    os.mkfifo(path)


def to_link(target: str) -> Callable[[Path], None]:
    """A symbolic link is there."""

    def link(path: Path) -> None:
        path.unlink()
        path.symlink_to(path.name if target == "itself" else target)

    return link


NO_FILES: tuple[Callable[[Path], None], ...] = (
    remove, to_folder, to_pipe, to_link("itself"), to_link("nowhere"), to_link("/dev/zero"),
    to_link("/dev/null"), to_link("/"), to_link("/etc/passwd"), to_link("."),
)


# JSON


def mutate_json(random: Random, content: bytes) -> bytes:
    """A value or a name anywhere is another, missing or too many."""
    try:
        value = json.loads(content)
    except ValueError:
        return mutate_bytes(random, content)
    for _ in range(random.choice((1, 1, 2, 4))):
        value = _changed(random, value)
    try:
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        return b"[" * 100_000


def _changed(random: Random, value: Any) -> Any:
    """`value` with a change in it, or another value."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        what = random.random()
        if what < 0.15:
            return {name: each for name, each in value.items() if name != key}
        if what < 0.25:
            return {**value, random.choice(ODD_TEXTS): random.choice(ODD_VALUES)}
        return {**value, key: _changed(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.85:
        place = random.randrange(len(value))
        what = random.random()
        if what < 0.1:
            return value[:place] + value[place + 1 :]
        if what < 0.2:
            return [*value, *value]
        return [*value[:place], _changed(random, value[place]), *value[place + 1 :]]
    if isinstance(value, str) and random.random() < 0.4:
        return mutate_bytes(random, value.encode()[:1000]).decode(errors="replace")
    return random.choice((*ODD_VALUES, [value], {"a": value}, str(value), [value] * 1000))


# Lines of text


def mutate_lines(random: Random, content: bytes) -> bytes:
    """A line is another, missing, doubled or odd; or bytes are."""
    if random.random() < 0.3:
        return mutate_bytes(random, content)
    lines = content.decode(errors="replace").splitlines() or [""]
    place = random.randrange(len(lines))
    new = random.choice((*ODD_TEXTS, lines[place] + lines[place], "../" + lines[place],
                         "/" + lines[place], lines[place].upper(), lines[place] + "=1"))
    lines = random.choice((
        [*lines[:place], new, *lines[place + 1 :]], [*lines, new], lines + lines,
        lines[:place], lines[::-1],
    ))
    text = random.choice(("\n", "\n", "\r\n", "\r", "\x85")).join(lines)
    return text.encode(random.choice(("utf-8", "utf-8", "utf-16", "utf-32")), "surrogatepass")
