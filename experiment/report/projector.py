"""Write embeddings for TensorBoard's projector: ``tensorboard --logdir DIRECTORY``."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.image
import numpy as np

from experiment.run.folder import write_bytes, write_text

FILES = ("projector_config.pbtxt", "labels.tsv", "images.png", "embedding*.tsv")
"""The files written, for `folder.RunFolder.directory`."""
_LARGEST_SPRITE = 8192


def write_projector(
    directory: str | os.PathLike,
    embeddings: Mapping[str, np.ndarray],
    images: np.ndarray,
    labels: Sequence[str],
) -> None:
    """Write embeddings of some images, with the image and class of each point.

    Args:
        directory: the folder to write to.
        embeddings: float [N,E] by name.
        images: uint8 [N,H,W,C], C 1 or 3. They are reduced if all of them together would exceed the
            projector's maximum size.
        labels: the class name of each image.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    sprite, (height, width) = _sprite(images)
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, sprite, format="png")
    write_bytes(directory / "images.png", buffer.getvalue())
    write_text(directory / "labels.tsv", "".join(f"{label}\n" for label in labels))
    config = []
    for number, (name, vectors) in enumerate(embeddings.items()):
        rows = ("\t".join(f"{value:.6g}" for value in vector) for vector in vectors)
        write_text(directory / f"embedding{number}.tsv", "".join(f"{row}\n" for row in rows))
        config.append(
            "embeddings {\n"
            f'  tensor_name: "{name}"\n'
            f'  tensor_path: "embedding{number}.tsv"\n'
            '  metadata_path: "labels.tsv"\n'
            "  sprite {\n"
            '    image_path: "images.png"\n'
            f"    single_image_dim: {width}\n"
            f"    single_image_dim: {height}\n"
            "  }\n"
            "}\n"
        )
    write_text(directory / "projector_config.pbtxt", "".join(config))


def _sprite(images: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """All images in one, row by row on a square grid, and the (height, width) of each there."""
    side = math.ceil(math.sqrt(len(images)))
    step = max(1, math.ceil(max(images.shape[1:3]) * side / _LARGEST_SPRITE))
    small = images[:, ::step, ::step]
    if small.shape[-1] == 1:
        small = small.repeat(3, axis=-1)
    height, width = small.shape[1:3]
    cells = np.zeros([side * side, height, width, 3], np.uint8)
    cells[: len(small)] = small
    grid = cells.reshape(side, side, height, width, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(side * height, side * width, 3), (height, width)
