"""Memory is not asked for where there is none: sizes are looked at first."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from free_memory import free_memory
from registry import UserError

from .keras_graph import before_weights


def check_memory(needed: int, what: str, advice: str) -> None:
    """Raise UserError where `needed` bytes are more than the memory that is available now.

    Args:
        what: what needs them, in the plural, for the message: "the weights of X".
        advice: what to do instead: "choose a smaller width".
    """
    available = free_memory()
    if needed > available:
        raise UserError(
            f"{what} need {in_words(needed)} of memory, and {in_words(available)} are available: "
            f"{advice}"
        )


def in_words(size: int) -> str:
    """A number of bytes as people read it: ``"1.5 GB"``."""
    power = min(len(str(int(size))) - 1, 12) // 3
    value, unit = size / 1000**power, ("bytes", "KB", "MB", "GB", "TB")[power]
    return f"{value:,.0f} {unit}" if power == 0 or value >= 1000 else f"{value:.3g} {unit}"


@contextlib.contextmanager
def limited_memory(what: str, advice: str = "choose a smaller one") -> Iterator[None]:
    """Within this context, layers make variables only while there is memory for all of them.

    The sizes are added up before each variable is made, so that a layer of 10^12 units is refused
    at once. Under a distribution strategy one replica's variables are counted.

    Args:
        what: is being built, for the message.
        advice: what to do instead, for the message.

    Raises:
        UserError: within it, at the first variable for which there is no memory: with the number of
            parameters so far, the bytes needed and available.
    """
    available = free_memory()
    parameters = needed = 0

    def count(shape: Sequence[Any], dtype: str) -> None:
        nonlocal parameters, needed
        size = math.prod(int(each) for each in shape)
        parameters += size
        needed += size * _bytes_of(dtype)
        if needed > available:
            raise UserError(
                f"{what} has at least {parameters:,} parameters, which need {in_words(needed)} of "
                f"memory, and {in_words(available)} are available: {advice}"
            )

    with before_weights(count):
        yield


def _bytes_of(dtype: str) -> int:
    bits = "".join(character for character in keras.backend.standardize_dtype(dtype)
                   if character.isdigit())
    return max(int(bits or 8), 8) // 8
