"""Files of images for tests, written by Pillow (or by hand, where it cannot write them)."""

import struct
import zlib

import numpy as np
from PIL import Image

ORIENTATION = 274


def picture(seed, shape=(9, 12, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(array, file, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file, **options)


def smooth(shape):
    """A picture that JPEG keeps almost as it is: a slope that differs in every direction."""
    height, width = shape
    rows, columns = np.mgrid[:height, :width]
    channels = [rows * 200 / height, columns * 200 / width, (rows + columns) * 100 / height]
    return np.clip(np.stack(channels, -1) + 20, 0, 255).astype(np.uint8)


def save_turned(upright, file, orientation):
    """Write the file that a camera held askew writes, so that by its note it looks as `upright`.

    The table is that of the Exif standard: where the file's first row and first column belong."""
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    save(np.ascontiguousarray(stored), file, exif=exif, **({"quality": 95}
         if file.suffix in (".jpg", ".webp") else {}))


def deep_png(values, promised=None):
    """A PNG of 16 bits with `values`, uint16 [h,w,1..4]: its colour type by the PNG standard. Its
    header may promise another size (height, width)."""
    channels = values.shape[-1]
    height, width = promised or values.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        )
    )


def deep_tiff(values):
    """An uncompressed TIFF of 16-bit colours, uint16 [h,w,3], by the TIFF 6 standard."""
    height, width, _ = values.shape
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 14), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, values.nbytes),
    ]
    bits, pixels = struct.pack("<3H", 16, 16, 16), values.astype("<u2").tobytes()
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    header = struct.pack("<2sHI", b"II", 42, 14 + len(pixels))
    return header + bits + pixels + struct.pack("<H", len(tags)) + directory + bytes(4)
