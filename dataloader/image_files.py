"""Images in files: decoding, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

ENDS = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND"), (b"GIF8", b"\x3b"), (b"BM", b""))
"""How the file of each format begins and (within the last bytes) ends."""


def decoded(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """The image in `contents` (a string scalar) as uint8 [h,w,channels]; a GIF's first one."""

    def bitmap() -> tf.Tensor:
        # The decoder of BMP does not convert between grey, colour and transparency.
        image = tf.io.decode_bmp(contents, channels=0)
        grey = tf.shape(image)[-1] == 1
        return tf.gather(image, tf.where(grey, [0] * channels, [*range(channels)]), axis=-1)

    def other() -> tf.Tensor:
        return tf.io.decode_image(contents, channels=channels, expand_animations=False)

    image = tf.cond(tf.strings.substr(contents, 0, 2) == b"BM", bitmap, other)
    return tf.ensure_shape(image, (None, None, channels))


def _is_grey(contents: bytes) -> bool:
    """Whether the file of an image (that can be decoded) holds grey values."""
    if contents.startswith(b"\x89PNG"):
        return contents[25] in (0, 4)
    if contents.startswith(b"\xff\xd8"):
        return int(tf.image.extract_jpeg_shape(contents)[2]) == 1
    if contents.startswith(b"BM"):
        return contents[28:30] == b"\x08\x00"
    return False


def _has_colour_table(contents: bytes) -> bool:
    """Whether a BMP of 8 bits is not grey: the decoder would give the places in its table."""
    if not (contents.startswith(b"BM") and contents[28:30] == b"\x08\x00"):
        return False
    start = 14 + int.from_bytes(contents[14:18], "little")
    table = np.frombuffer(contents[start : start + 1024], np.uint8).reshape(-1, 4)[:, :3]
    return bool((table != np.arange(len(table))[:, None]).any())


def fault_of(file: Path, decode: bool) -> tuple[str, bool]:
    """(what is wrong with the image in `file`, or ``""``; whether it is grey)."""
    try:
        contents = file.read_bytes()
    except OSError as error:
        return error.strerror or str(error), False
    if not contents:
        return "empty file", False
    ends = [end for start, end in ENDS if contents.startswith(start)]
    if not ends:
        return "not a JPEG, PNG, BMP or GIF", False
    # Some cameras and editors append a few bytes or zeros.
    if ends[0] not in contents[-4096:]:
        return "cut off", False
    if not decode:
        return "", False
    if _has_colour_table(contents):
        return "a BMP with a colour table: save it as PNG", False
    try:
        decoded(tf.constant(contents), channels=3)
    except tf.errors.InvalidArgumentError as error:
        return error.message.splitlines()[0].split("}} ")[-1][:100], False
    return "", _is_grey(contents)
