"""Image files: find damage, and decode them as image viewers display them.

Ordinary files are decoded by TensorFlow, which is fast and works in a graph. These are JPEG and PNG
with 8-bit grey or colour and no special features. All others go through Pillow: photographs with an
EXIF orientation, CMYK, transparency, 16 bits, and other formats.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from held_stderr import held_stderr
from processors import usable_cores
from regular_files import open_regular, read_bytes

READ = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff",
)  # fmt: skip
NOT_READ = (
    ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
    ".psd", ".exr", ".hdr", ".dng", ".svg",
)  # fmt: skip
"""Image formats that cannot be read. They are reported, because skipping them would lose data."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
KNOWN = "JPEG, PNG, BMP, GIF, WebP or TIFF"
_JPEG = ("JPEG", "MPO")  # MPO: several JPEGs in one file; the first is used
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_STARTS = (b"\xff\xd8", b"\x89PNG", b"BM", b"GIF8", b"RIFF", *_TIFF)
_PNG_BITS = 24  # the place of the bits of a channel
_ENDS = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND"), (b"GIF8", b"\x3b"))
"""Bytes at the start of files of these formats, and bytes that must occur near their end."""

_GREY = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
_ORIENTATION = 274  # tags of EXIF and TIFF
_BITS_PER_SAMPLE = 258
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn an image upright, by EXIF orientation (Exif 2.32, tag 274)."""

WHITES = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))
"""The largest values in 16-bit files from cameras and scanners of different bit depths."""

# Pillow warns about irrelevant oddities in metadata, and about sizes that are checked below.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageFault(Exception):
    """Describes briefly what is wrong with an image."""


@dataclass(frozen=True)
class Finding:
    """The result of examining an image file.

    Attributes:
        fault: what is wrong with it, or ``""``.
        ordinary: whether TensorFlow decodes it as viewers display it.
        grey: whether it has only grey values.
        size: (height, width) as displayed; None if the image was not decoded.
        brightest: the largest value of a 16-bit image; 0 for other images.
    """

    fault: str = ""
    ordinary: bool = False
    grey: bool = False
    size: tuple[int, int] | None = None
    brightest: int = 0


def white_of(brightest: int) -> int:
    """The value that counts as white in 16-bit images.

    8, 10, 12 and 14-bit values are often stored in 16 bits without scaling.

    Args:
        brightest: the largest value in all 16-bit images of a data set.
    """
    return next(white for white in WHITES if brightest <= white)


# Decoding


def decoded(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Decode the ordinary image in `contents` (a string scalar) to uint8 [h,w,channels]."""
    image = tf.io.decode_image(contents, channels=channels, expand_animations=False)
    return tf.ensure_shape(image, (None, None, channels))


def is_ordinary(contents: bytes) -> bool:
    """Whether `decoded` decodes the file as viewers display it. False if it is not an image."""
    try:
        return _is_ordinary(_opened(contents), contents)
    except ImageFault:
        return False


def pixels(contents: bytes, channels: int, white: int = WHITES[-1]) -> np.ndarray:
    """Decode any supported image as viewers display it.

    It is rotated according to its EXIF orientation. Transparent parts become white, or black if the
    picture would be invisible on white. Of several pictures in a file, the first is used.

    Args:
        contents: the file's bytes.
        channels: 1 for grey, 3 for colour.
        white: the value in 16-bit images that becomes 255, see `white_of`.

    Returns:
        uint8 [h,w,channels].

    Raises:
        ImageFault: the image cannot be read.
    """
    image = _opened(contents)
    if _is_ordinary(image, contents):
        return _by_tensorflow(contents, channels).numpy()
    shown = _flat(_turned(_eight_bits(image, contents, white), image))
    converted = np.asarray(shown.convert("L" if channels == 1 else "RGB"))
    return converted.reshape(*converted.shape[:2], channels)


def _opened(contents: bytes) -> Image.Image:
    """Open the image and read only its header. Raises ImageFault."""
    try:
        image = Image.open(io.BytesIO(contents), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageFault(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow may raise any exception for invalid bytes
        raise ImageFault(f"not a {KNOWN}") from error
    width, height = image.size
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise ImageFault(f"{width}x{height}: more than {Image.MAX_IMAGE_PIXELS:,} pixels")
    return image


def _is_ordinary(image: Image.Image, contents: bytes) -> bool:
    if image.format in _JPEG:
        return image.mode in ("L", "RGB") and _orientation(image) == 1
    if image.format == "PNG":
        bits, note = contents[_PNG_BITS], b"eXIf" in contents
        plain = image.mode in ("L", "RGB", "P") and "transparency" not in image.info
        return bits == 8 and plain and not note
    return False


def _orientation(image: Image.Image) -> int:
    try:
        number = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # viewers ignore damaged metadata too
        return 1
    return number if number in _TURNS else 1


def _turned(image: Image.Image, original: Image.Image) -> Image.Image:
    """Rotate `image` according to the EXIF orientation of `original`, which must be loaded."""
    number = _orientation(original)
    return image.transpose(_TURNS[number]) if number in _TURNS else image


def _deep_values(image: Image.Image, contents: bytes) -> np.ndarray | None:
    """The values of a 16-bit image, uint16 [h,w,1..4]; None for other images.

    The channels are grey or colours, followed by transparency if there is any.
    """
    if image.format == "PNG" and contents[_PNG_BITS] == 16:  # Pillow would drop the lower 8 bits
        return _by_tensorflow(contents, channels=0, dtype=tf.uint16).numpy()
    if image.mode.startswith("I;16"):
        return np.asarray(_loaded(image)).astype(np.uint16)[..., None]
    return None


def _eight_bits(image: Image.Image, contents: bytes, white: int) -> Image.Image:
    """Convert the image to 8 bits per channel, not yet rotated. Raises ImageFault."""
    _loaded(image)
    deep = _deep_values(image, contents)
    if deep is None:
        if image.mode in ("I", "F"):
            raise ImageFault("32-bit grey values are not read: save it with 8 or 16 bits")
        _check_colours(image)
        return image
    if deep.shape[-1] in (2, 4):  # transparency always has the full 16-bit range
        limits = np.array([white] * (deep.shape[-1] - 1) + [WHITES[-1]])
    else:
        limits = np.array([white] * deep.shape[-1])
    if (deep > limits).any():
        raise ImageFault(f"values above {white}, the largest expected from the images read first")
    values = np.rint(deep * (255 / limits)).astype(np.uint8)
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def _check_colours(image: Image.Image) -> None:
    """Raise ImageFault where a TIFF's colours of 10 to 14 bits are stored in 16, of which Pillow
    keeps the upper 8: they would be almost black."""
    if image.format != "TIFF" or max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) != 16:
        return
    brightest = max(high for _, high in image.convert("RGB").getextrema())
    if 0 < brightest <= WHITES[-2] >> 8:
        raise ImageFault(
            f"a colour TIFF of 16 bits without a value above {(brightest + 1) * 256 - 1}: save it "
            "as PNG"
        )


def _loaded(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # see `_opened`
        raise ImageFault(str(error)[:100] or type(error).__name__) from error
    return image


def _flat(image: Image.Image) -> Image.Image:
    """Put a transparent image on a background; return other images unchanged."""
    if not image.has_transparency_data:
        return image
    over = image.convert("RGBA")
    flat = {}
    for ground in ("white", "black"):
        flat[ground] = Image.alpha_composite(Image.new("RGBA", over.size, ground), over)
        flat[ground] = flat[ground].convert("RGB")
        if any(low != high for low, high in flat[ground].getextrema()):
            return flat[ground]
    return flat["white"]


def _by_tensorflow(contents: bytes, channels: int, dtype: tf.DType = tf.uint8) -> tf.Tensor:
    try:
        with tf.device("CPU:0"):
            return tf.io.decode_image(
                contents, channels=channels, dtype=dtype, expand_animations=False
            )
    except tf.errors.InvalidArgumentError as error:
        raise ImageFault(error.message.splitlines()[0].split("}} ")[-1][:100]) from error


# Finding damage


def examine(files: Sequence[str | Path], decode: Sequence[bool]) -> list[Finding]:
    """Examine image files.

    Args:
        files: paths.
        decode: for each file, whether to decode it. If not, only its first and last bytes are
            checked, which detects empty files and files that are not images; what may be cut off,
            and what may have 16 bits, is decoded all the same.

    Returns:
        One finding per file.
    """
    found: list[Finding] = []
    with ThreadPoolExecutor(len(usable_cores())) as pool:
        for start in range(0, len(files), _AT_ONCE):
            chunk = slice(start, start + _AT_ONCE)
            with decoders_listened_to() as complaints:
                part = list(pool.map(_examine, files[chunk], decode[chunk]))
            if complaints:  # they do not name the file
                part = [
                    _examine_alone(file) if finding.size and not finding.fault else finding
                    for file, finding in zip(files[chunk], part, strict=True)
                ]
            found += part
    return found


_AT_ONCE = 256


def _examine(file: str | Path, decode: bool) -> Finding:
    try:
        if not decode and _need_no_decoding(file):
            return Finding()
        return _finding(read_bytes(file))
    except OSError as error:
        return Finding(error.strerror or str(error))
    except ImageFault as fault:
        return Finding(str(fault))


def _need_no_decoding(file: str | Path) -> bool:
    """Whether the first and last bytes of a file tell all: it is whole, and no image of 16 bits,
    whose largest value must be known. Raises OSError, ImageFault."""
    with open(open_regular(file), "rb") as opened:
        start = opened.read(_PNG_BITS + 1)
        opened.seek(max(0, os.fstat(opened.fileno()).st_size - 4096))
        end = opened.read()
    _check_start(start)
    may_be_deep = start.startswith(_TIFF) or (
        start.startswith(b"\x89PNG") and start[_PNG_BITS:] == b"\x10"
    )
    return not may_be_deep and not _may_be_cut_off(start, end)


def begins_as_image(file: str | Path) -> bool:
    """Whether the regular file `file` starts like a supported image. Raises OSError."""
    with open(open_regular(file), "rb") as opened:
        start = opened.read(12)
    return start.startswith(_STARTS) and (start[:4] != b"RIFF" or start[8:] == b"WEBP")


def _check_start(start: bytes) -> None:
    if not start:
        raise ImageFault("empty file")
    if not start.startswith(_STARTS):
        raise ImageFault(f"not a {KNOWN}")


def _may_be_cut_off(start: bytes, end: bytes) -> bool:
    """Whether the end of the picture is not where it is in most files. Some cameras and editors
    append a few bytes or zeros, and some phones a video."""
    return any(start.startswith(first) and last not in end for first, last in _ENDS)


def _finding(contents: bytes) -> Finding:
    """Decode and describe an image. Raises ImageFault."""
    _check_start(contents[:8])
    try:
        return _described(contents)
    except ImageFault as fault:
        if _may_be_cut_off(contents[:8], contents[-4096:]):
            raise ImageFault("cut off") from fault
        raise


def _described(contents: bytes) -> Finding:
    """Decode and describe an image that begins as one. Raises ImageFault."""
    image = _opened(contents)
    mode, (width, height) = image.mode, image.size
    if image.format in (*_JPEG, "PNG"):  # TensorFlow verifies checksums and codes that Pillow skips
        _by_tensorflow(contents, channels=0)
    if _is_ordinary(image, contents):
        return Finding(ordinary=True, grey=mode == "L", size=(height, width))
    deep = _deep_values(image, contents)
    # Excludes the transparency, which is the last of two or four channels.
    brightest = 0 if deep is None else int(deep[..., : 3 if deep.shape[-1] > 2 else 1].max())
    # Older Pillow gives 16-bit grey PNGs the mode "I".
    grey = mode in _GREY or (mode == "I" and deep is not None)
    height, width = pixels(contents, channels=3).shape[:2]
    return Finding(grey=grey, size=(height, width), brightest=brightest)


# The JPEG decoder carries on after missing or overwritten data, fills the image with something, and
# reports this only on the process' stderr. Neither TensorFlow nor Pillow raises an error.
_COMPLAINT = re.compile(rb"Corrupt JPEG data: |Premature end of JPEG file")
_STRAY = re.compile(rb"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
# TensorFlow's warnings here are of oddities in an image that it decodes all the same, without its
# name, or repeat an error that is raised.
_LOGGED = re.compile(rb"[EF]\d{4} ")
STRAY_SHARE = 0.05
"""Some cameras write bytes after the last pixel. More than this share of the file means damage."""


@contextlib.contextmanager
def decoders_listened_to() -> Iterator[list[bytes]]:
    """Within this context, capture what image decoders write to stderr.

    Decoders still raise their fatal errors. TensorFlow's log of errors is written to stderr at the
    end.

    Yields:
        The complaints of the JPEG decoder, filled in at the end.
    """
    complaints: list[bytes] = []

    def is_logged(line: bytes) -> bool:
        if _COMPLAINT.match(line):
            complaints.append(line.strip())
        return bool(_LOGGED.match(line))

    with held_stderr(is_logged):
        yield complaints


def _examine_alone(file: str | Path) -> Finding:
    with decoders_listened_to() as complaints:
        finding = _examine(file, decode=True)
    for complaint in complaints:
        stray = _STRAY.match(complaint)
        if not stray or int(stray[1]) > STRAY_SHARE * os.path.getsize(file):
            return Finding(f"damaged ({complaint.decode(errors='replace')})")
    return finding
