"""Ways to spoil files that keep their format: what is in them is not what a reader expects."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import scipy.io
from PIL import Image

from tests.fuzz.mutations import (
    NO_FILES,
    ODD_TEXTS,
    mutate_bytes,
    mutate_json,
    mutate_lines,
)

Mutation = Callable[[Random, Path], None]


def spoil(random: Random, path: Path) -> str:
    """Spoil the file `path` in some way, a third of the time by its bytes; what was done."""
    kind = random.random()
    if kind < 0.1:
        change = random.choice(NO_FILES)
        change(path)
        return f"{path.name}: {getattr(change, '__name__', change)}"
    own = FORMATS.get("".join(path.suffixes[-2:])) or FORMATS.get(path.suffix or path.name)
    if own is None or kind < 0.4:
        path.write_bytes(mutate_bytes(random, path.read_bytes()))
        return f"{path.name}: bytes"
    own(random, path)
    return f"{path.name}: {own.__name__}"


def spoil_json(random: Random, path: Path) -> None:
    """Values and names."""
    path.write_bytes(mutate_json(random, path.read_bytes()))


def spoil_lines(random: Random, path: Path) -> None:
    """Lines of text."""
    path.write_bytes(mutate_lines(random, path.read_bytes()))


# Arrays


def mutate_array(random: Random, array: np.ndarray) -> np.ndarray:
    """Another type, shape or values."""
    return random.choice((
        lambda: array.astype(random.choice(("f4", "f8", "f2", "i8", "u8", "c8", "?", "i1", ">i4"))),
        lambda: array.astype("f4") * random.choice((np.nan, np.inf, -1, 1 / 255, 1e38)),
        lambda: array.astype("i8") + random.choice((1, -1, 255, 2**31, -(2**40), 2**62)),
        lambda: array.reshape(-1),
        lambda: array[: random.randrange(3)],
        lambda: array[:-1],
        lambda: array[None],
        lambda: array[..., None],
        lambda: np.moveaxis(array, 0, -1),
        lambda: np.asfortranarray(array),
        lambda: np.zeros_like(array),
        lambda: array.reshape(-1)[0],
        lambda: np.zeros((0,), array.dtype),
        lambda: np.array([random.choice(ODD_TEXTS[1:30]) for _ in range(max(array.size % 7, 1))]),
        lambda: np.array([b"\xff\xfe"]),
        lambda: np.array([None, {}], object),
        lambda: np.zeros(len(np.atleast_1d(array)), "M8[s]"),
        lambda: np.zeros(len(np.atleast_1d(array)), [("a", "i4"), ("b", "f4")]),
        lambda: np.zeros(3, "V5"),
    ))()


def declared_shape(random: Random, array: np.ndarray) -> bytes:
    """`array` as ``.npy``, whose header promises another shape."""
    file = io.BytesIO()
    np.save(file, array)
    shape = random.choice((
        "(999999999999, 32, 32, 3)", "(-1, 8, 8, 3)", "(10000000000000000000000,)", "(0,)", "()",
        "(4, 8, 8, 3,", "(True, 2)", "(9223372036854775807, 2)", "((1,), 2)",
    ))
    content = re.sub(rb"'shape': \([^)]*\)", b"'shape': " + shape.encode(), file.getvalue())
    length = content.index(b"\n") - 9
    return content[:8] + struct.pack("<H", max(length, 1)) + content[10:]


def spoil_npz(random: Random, path: Path) -> None:
    """One array, or the archive."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    key = random.choice(list(arrays))
    raw: dict[str, bytes] = {}
    what = random.random()
    if what < 0.1:
        del arrays[key]
    elif what < 0.25:
        raw[key] = declared_shape(random, arrays.pop(key))
    elif what < 0.35:
        file = io.BytesIO()
        np.save(file, arrays.pop(key))
        raw[key] = mutate_bytes(random, file.getvalue())
    else:
        arrays[key] = mutate_array(random, arrays[key])
    save = random.choice((np.savez, np.savez, np.savez_compressed))
    save(path, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        for name, content in raw.items():
            archive.writestr(random.choice((f"{name}.npy", f"{name}.npy", name)), content)


def spoil_mat(random: Random, path: Path) -> None:
    """One variable."""
    arrays = {
        key: value for key, value in scipy.io.loadmat(path).items() if not key.startswith("__")
    }
    key = random.choice(list(arrays))
    what = random.random()
    if what < 0.2:
        del arrays[key]
    elif what < 0.4:
        arrays[random.choice(("x", "a/weights", "vgg6/block9/conv9/weights"))] = arrays[key]
    else:
        arrays[key] = mutate_array(random, arrays[key])
    try:
        scipy.io.savemat(path, arrays)
    except Exception:  # what the format cannot hold
        path.write_bytes(mutate_bytes(random, path.read_bytes()))


# Networks


def spoil_h5(random: Random, path: Path) -> None:
    """A data set or the description of the network."""
    with h5py.File(path, "r+") as file:
        if "model_config" in file.attrs and random.random() < 0.5:
            text = file.attrs["model_config"]
            text = text.encode() if isinstance(text, str) else text
            changed = mutate_json(random, text)
            file.attrs["model_config"] = changed.decode(errors="replace")[:60_000]
            return
        _spoil_part(random, file)


def _spoil_part(random: Random, file: h5py.File) -> None:
    found: list[Any] = []
    file.visititems(lambda _, item: found.append(item))
    item = random.choice(found)
    parent, name = item.parent, item.name
    array = item[()] if isinstance(item, h5py.Dataset) else np.zeros(3, "f4")
    attributes = dict(item.attrs)
    del file[name]
    what = random.randrange(8)
    if what == 0:
        return
    if what == 1:
        parent[name] = h5py.ExternalLink("/etc/passwd", "/")
    elif what == 2:
        parent[name] = h5py.SoftLink(random.choice(("/", name, "/nowhere")))
    elif what == 3:
        parent.create_dataset(name, (2**40,), "f4", chunks=(2**10,))
    elif what == 4:
        parent.create_dataset(name, (100,), "f4", external=[("/etc/passwd", 0, 400)])
    elif what == 5:
        layout = h5py.VirtualLayout((10,), "f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (10,))
        parent.create_virtual_dataset(name, layout)
    elif what == 6:
        parent.create_dataset(name, data=random.choice((np.nan, -1, 1e38)) * array.astype("f4"))
    else:
        changed = mutate_array(random, np.asarray(array))
        kind = changed.dtype.kind
        data = changed.astype("S") if kind == "U" and kind != "O" else changed
        parent.create_dataset(name, data=np.zeros(3) if data.dtype.kind in "OMV" else data)
    for key, value in attributes.items():
        if name in parent and isinstance(parent.get(name, getlink=True), h5py.HardLink):
            parent[name].attrs[key] = value


def spoil_keras(random: Random, path: Path) -> None:
    """A member of the archive: the description, the weights or what is said of them."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice([*members, "config.json", "config.json"])
    what = random.random()
    if what < 0.1:
        del members[name]
    elif what < 0.15:
        members[random.choice(("../../x", "/x", "assets/../../x", "x"))] = b"x"
    elif name.endswith(".json") and what < 0.8:
        members[name] = mutate_json(random, members[name])
    elif name.endswith(".h5") and what < 0.7:
        part = path.with_name("part.h5")
        part.write_bytes(members[name])
        spoil_h5(random, part)
        members[name] = part.read_bytes()
        part.unlink()
    elif what < 0.85:
        members[name] = bytes(50_000_000)  # of zeros, which take nothing when packed
    else:
        members[name] = mutate_bytes(random, members[name])
    pack = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w", pack) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


# Pictures


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def declared_png(random: Random) -> bytes:
    """A PNG whose head promises another size or kind than its few bytes hold."""
    width, height = random.choice(
        ((50_000, 50_000), (2**31 - 1, 1), (0, 8), (8, 0), (10_000, 10_000), (8, 8), (1, 60_000))
    )
    head = struct.pack(">IIBBBBB", width, height, random.choice((1, 8, 16, 3)),
                       random.choice((0, 2, 3, 4, 6, 9)), 0, 0, random.choice((0, 1, 7)))
    data = zlib.compress(bytes(random.choice((0, 100, 10_000))))
    return (b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data)
            + _chunk(b"IEND", b""))


def spoil_picture(random: Random, path: Path) -> None:
    """Another format or mode than the name says, odd sizes, EXIF notes, or many frames."""
    if random.random() < 0.3:
        path.write_bytes(declared_png(random))
        return
    mode = random.choice(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"))
    size = random.choice(((8, 8), (1, 1), (1, 3000), (3000, 1), (2000, 2000), (7, 9)))
    image = Image.new("L" if mode == "I;16" else mode, size)
    if mode == "I;16":
        image = Image.fromarray(np.full(size[::-1], random.choice((0, 300, 65535)), np.uint16))
    exif = Image.Exif()
    exif[274] = random.choice((1, 3, 6, 8, 9, 0, 77, 60_000))
    for kind in random.sample(("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"), 8):
        file = io.BytesIO()
        try:
            many = {"save_all": True, "append_images": [image] * 3} if kind == "GIF" else {}
            image.save(file, kind, exif=exif, **many)
        except (OSError, ValueError, KeyError):
            continue  # this format has no such mode
        path.write_bytes(file.getvalue())
        return


# Annotations

_NUMBER = re.compile(r">-?[\d.]+<")
_BOMB = ('<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
         + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi",
                                                                      strict=True))
         + "]>")


def spoil_xml(random: Random, path: Path) -> None:
    """Numbers, names, tags, entities, encodings."""
    text = path.read_text()
    places = list(_NUMBER.finditer(text))
    place = random.choice(places)
    number = random.choice(("nan", "inf", "-1", "0", "1e308", "1e400", "99999999999", "", "x",
                            "9" * 5000, "½", "1,5", " 3 ", "0x3"))
    encoding = random.choice(("x", "utf-16", "ebcdic", "rot13", "base64", "latin-1"))
    text = random.choice((
        lambda: f"{text[:place.start()]}>{number}<{text[place.end():]}",
        lambda: text.replace("<object>", "", 1),
        lambda: text.replace("<name>", f"<name>{random.choice(ODD_TEXTS[20:])}"),
        lambda: text.replace("<name>", "<name><b/>"),
        lambda: _BOMB + text.replace("<name>", "<name>&i;"),
        lambda: '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
        + text.replace("<name>", "<name>&e;"),
        lambda: "<a>" * 100_000,
        lambda: re.sub(r"<object>.*</object>", "", text, flags=re.DOTALL),
        lambda: text.replace("</annotation>", "<object/>" * 5000 + "</annotation>"),
        lambda: f'<?xml version="1.0" encoding="{encoding}"?>' + text,
    ))()
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


FORMATS: dict[str, Mutation] = {
    ".npz": spoil_npz,
    ".mat": spoil_mat,
    ".weights.h5": spoil_h5,
    ".h5": spoil_h5,
    ".keras": spoil_keras,
    ".json": spoil_json,
    ".xml": spoil_xml,
    ".txt": spoil_lines,
    ".flags": spoil_lines,
    ".written": spoil_lines,
    ".csv": spoil_lines,
    **dict.fromkeys((".png", ".jpg", ".gif", ".bmp", ".tif", ".webp"), spoil_picture),
}

