"""The tokens of vision transformers as maps of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from registry import UserError

_LARGEST_PREFIX = 8


def token_grid(
    count: int, image_size: Sequence[int], prefix: int | None = None
) -> tuple[int, int, int] | None:
    """How tokens lie in the image that they are of.

    Patches are square and cover the image, so that their rows and columns are to one another as
    its height and width; what is left over are tokens that stand for no place: one for the class
    (ViT), two (DeiT), one and four registers (DINOv2), none.

    Args:
        count: number of tokens.
        image_size: (height, width) of the images.
        prefix: number of tokens before those of patches; None: the least from 0 to 8 that fits.

    Returns:
        (prefix, rows, columns), or None where no grid fits.
    """
    height, width = image_size
    for before in range(_LARGEST_PREFIX + 1) if prefix is None else (prefix,):
        patches = max(count - before, 0)
        rows = round((patches * height / width) ** 0.5)
        columns = patches // rows if rows else 0
        covers = columns and height % rows == width % columns == 0
        if covers and rows * columns == patches and height * columns == width * rows:
            return before, rows, columns
    return None


def tokens_to_maps(tokens: Any, image_size: Sequence[int], prefix: int | None = None) -> Any:
    """From tokens ``[B, N, D]`` to maps ``[B, h, w, D]``: those of patches, row by row.

    Tokens that stand for no place in the image, before those that do, are dropped.

    Args:
        tokens: symbolic or concrete, of a known number N.
        image_size, prefix: see `token_grid`.

    Raises:
        UserError: no grid of patches has as many tokens.
    """
    count, depth = tokens.shape[1:]
    grid = token_grid(count, image_size, prefix)
    if grid is None:
        size = "x".join(map(str, image_size))
        before = "up to 8" if prefix is None else prefix
        raise UserError(
            f"{count} tokens do not form a grid of square patches of images of {size} with "
            f"{before} tokens before them: say how many come before (prefix), or tap a layer that "
            "gives maps"
        )
    before, rows, columns = grid
    return keras.ops.reshape(tokens[:, before:], (-1, rows, columns, depth))
