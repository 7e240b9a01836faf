"""Images of every kind against Pillow, NumPy and the standards; damage; what is no image."""

import io
import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from dataloader.image_files import ImageFault, decoded, examine, is_ordinary, pixels, white_of
from tests.dataloader.pictures import (
    deep_png,
    deep_tiff,
    picture,
    save,
    save_turned,
    smooth,
)


def stored(array, kind, **options):
    file = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(
        file, kind, **options
    )
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(tmp_path, suffix, orientation):
    file = tmp_path / f"a.{suffix}"
    save_turned(smooth((24, 40)), file, orientation)
    found = pixels(file.read_bytes(), channels=3).astype(int)
    assert found.shape == (24, 40, 3)
    assert np.abs(found - smooth((24, 40))).mean() < 3
    with Image.open(file) as opened:
        np.testing.assert_allclose(found, ImageOps.exif_transpose(opened), atol=6)
    finding, = examine([file], [True])
    assert not finding.fault and finding.size == (24, 40)
    assert finding.ordinary == (orientation == 1 and suffix == "jpg")


def test_transparency_shows_white():
    colours, alpha = picture(0, (8, 9, 3)), picture(1, (8, 9, 1))
    share = alpha / 255.0
    expected = colours * share + 255 * (1 - share)
    for kind in ("PNG", "TIFF"):
        found = pixels(stored(np.dstack([colours, alpha]), kind), channels=3)
        np.testing.assert_allclose(found, expected, atol=1)


@pytest.mark.parametrize(("ink", "ground"), [(0, 255), (255, 0), (200, 255)])
def test_a_picture_in_the_alpha_channel_is_seen(ink, ground):
    shape = np.random.default_rng(0).random((16, 16)) < 0.3
    grey = np.dstack([np.full((16, 16), ink), 255 * shape]).astype(np.uint8)
    expected = np.where(shape, ink, ground)
    coloured = np.concatenate([grey[..., :1].repeat(3, -1), grey[..., 1:]], -1)
    for array, channels in ((grey, 1), (coloured, 3)):
        found = pixels(stored(array, "PNG"), channels)
        np.testing.assert_array_equal(found, expected[..., None].repeat(channels, -1))
        assert not is_ordinary(stored(array, "PNG"))


def test_transparent_colours_of_tables_and_keys():
    table = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2), "P")
    table.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 1, 2, 3])
    expected = [[[10, 20, 30], [255] * 3], [[70, 80, 90], [1, 2, 3]]]
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(pixels(stored(table, kind, transparency=1), 3), expected)
    key = stored(np.array([[7, 9], [9, 3]], np.uint8), "PNG", transparency=9)
    np.testing.assert_array_equal(pixels(key, 1)[..., 0], [[7, 255], [255, 3]])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_scaled(channels):
    values = np.random.default_rng(channels).integers(0, 65536, (6, 7, channels)).astype(np.uint16)
    colours, expected = values[..., : channels - (channels % 2 == 0)], 0
    expected = colours / 257.0
    if channels % 2 == 0:
        share = values[..., -1:] / 65535.0
        expected = expected * share + 255 * (1 - share)
    found = pixels(deep_png(values), channels=1 if channels < 3 else 3)
    np.testing.assert_allclose(found, expected, atol=1.5 if channels % 2 == 0 else 0.51)


@pytest.mark.parametrize(("brightest", "white"), [
    (200, 255), (255, 255), (256, 1023), (4000, 4095), (16000, 16383), (16384, 65535),
])  # fmt: skip
def test_fewer_bits_in_sixteen(tmp_path, brightest, white):
    values = np.linspace(0, brightest, 72).round().astype(np.uint16).reshape(8, 9)
    for name in ("a.png", "a.tif"):
        save(values, tmp_path / name)
        finding, = examine([tmp_path / name], [True])
        assert finding.grey and finding.brightest == brightest and white_of(brightest) == white
        found = pixels((tmp_path / name).read_bytes(), 1, white)
        np.testing.assert_allclose(found[..., 0], values * (255 / white), atol=0.51)
    with pytest.raises(ImageFault, match="values above 100"):
        pixels((tmp_path / "a.png").read_bytes(), 1, 100)


def test_other_modes_as_pillow_has_them():
    colours = smooth((24, 32))
    cmyk = stored(Image.fromarray(colours).convert("CMYK"), "JPEG", quality=95)
    table = Image.fromarray(picture(3)).quantize(16)
    bits = Image.fromarray(picture(4, (9, 12)) > 127)
    for contents in (
        cmyk, stored(Image.fromarray(colours).convert("CMYK"), "TIFF"), stored(table, "PNG"),
        stored(table, "BMP"), stored(table, "GIF"), stored(bits, "PNG"), stored(bits, "BMP"),
        stored(bits, "TIFF"), stored(picture(5), "BMP"), stored(picture(5), "WEBP", lossless=True),
    ):
        with Image.open(io.BytesIO(contents)) as opened:
            np.testing.assert_array_equal(pixels(contents, 3), opened.convert("RGB"))
    assert np.abs(pixels(cmyk, 3).astype(int) - colours).mean() < 4


def test_ordinary_files_are_read_by_tensorflow_alike():
    for contents in (stored(picture(0), "PNG"), stored(smooth((24, 32)), "JPEG", quality=95)):
        assert is_ordinary(contents)
        with Image.open(io.BytesIO(contents)) as opened:
            difference = decoded(contents, 3).numpy().astype(int) - opened
        assert np.abs(difference).mean() < 2  # decoders of JPEG differ a little
    assert not is_ordinary(b"") and not is_ordinary(b"no image")


def rough(shape=(200, 300, 3)):
    steps = np.random.default_rng(0).normal(0, 8, shape)
    return np.clip(np.cumsum(steps, 1) + 128, 0, 255).astype(np.uint8)


HOLES = {
    "removed": lambda whole, half: whole[:half] + whole[half + 3000 :],
    "zeros": lambda whole, half: whole[:half] + bytes(2000) + whole[half + 2000 :],
    "ones": lambda whole, half: whole[:half] + b"\xff" * 2000 + whole[half + 2000 :],
    "ends early": lambda whole, half: whole[:half] + b"\xff\xd9",
    "zeros to the end": lambda whole, half: whole[:half] + bytes(half) + b"\xff\xd9",
    "noise": lambda whole, half: (
        whole[:half] + np.random.default_rng(1).bytes(500) + whole[half + 500 :]
    ),
    "cut off": lambda whole, half: whole[:half],
}


@pytest.mark.parametrize("hole", HOLES)
@pytest.mark.parametrize("progressive", [False, True])
def test_a_hole_in_a_photograph_is_found(tmp_path, capfd, hole, progressive):
    whole = stored(rough(), "JPEG", progressive=progressive)
    turned = stored(rough(), "JPEG", progressive=progressive, exif=b"")
    files = [tmp_path / f"{number}.jpg" for number in range(4)]
    for file in files:
        file.write_bytes(whole)
    files[1].write_bytes(HOLES[hole](whole, len(whole) // 2))
    files[2].write_bytes(turned)
    found = examine(files, [True] * 4)
    assert [bool(finding.fault) for finding in found] == [False, True, False, False]
    assert "Corrupt" not in capfd.readouterr().err


def test_a_few_bytes_that_a_camera_leaves_are_no_hole(tmp_path):
    whole = stored(rough(), "JPEG")
    (tmp_path / "a.jpg").write_bytes(whole[:-2] + b"\x12\x34" * 20 + whole[-2:] + bytes(30))
    finding, = examine([tmp_path / "a.jpg"], [True])
    assert not finding.fault


@pytest.mark.parametrize("decode", [True, False])
def test_a_video_behind_a_photograph_is_no_damage(tmp_path, decode):
    """As phones append it."""
    whole = stored(rough(), "JPEG")
    video = np.random.default_rng(0).integers(0, 255, 100_000, np.uint8).tobytes()  # no 0xff
    (tmp_path / "moving.jpg").write_bytes(whole + video)
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    moving, half = examine([tmp_path / "moving.jpg", tmp_path / "half.jpg"], [decode] * 2)
    assert (moving.fault, half.fault) == ("", "cut off")


@pytest.mark.parametrize("decode", [True, False])
def test_the_largest_value_of_16_bits_is_known_of_every_image(tmp_path, decode):
    values = np.arange(4 * 6, dtype=np.uint16).reshape(4, 6, 1) * 1000
    (tmp_path / "deep.png").write_bytes(deep_png(values))
    Image.fromarray(values[..., 0]).save(tmp_path / "deep.tif")
    found = examine([tmp_path / "deep.png", tmp_path / "deep.tif"], [decode] * 2)
    assert [finding.brightest for finding in found] == [23_000, 23_000]


def test_colours_of_12_bits_in_a_tiff_are_refused(tmp_path):
    values = np.random.default_rng(0).integers(0, 2**12, (4, 6, 3)).astype(np.uint16)
    for name, factor in (("full", 16), ("dark", 1)):
        (tmp_path / f"{name}.tif").write_bytes(deep_tiff(factor * values))
    full, dark = examine([tmp_path / "full.tif", tmp_path / "dark.tif"], [True] * 2)
    assert full.fault == "" and full.size == (4, 6)
    np.testing.assert_allclose(
        pixels((tmp_path / "full.tif").read_bytes(), 3), values // 16, atol=1
    )
    assert dark.fault == "a colour TIFF of 16 bits without a value above 4095: save it as PNG"


def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    files = [tmp_path / f"{name}.png" for name in ("pipe", "folder", "link", "endless")]
    for decode in (True, False):
        faults = [finding.fault for finding in examine(files, [decode] * 4)]
        assert faults == [
            "is a named pipe, not a file", "is a folder, not a file",
            "No such file or directory", "is a device, not a file",
        ]


@pytest.mark.parametrize("decode", [True, False])
def test_ends(tmp_path, decode):
    contents = {
        "a.png": b"", "b.png": b"text", "c.png": stored(picture(0, (40, 40, 3)), "PNG")[:2000],
        "d.jpg": stored(picture(0), "JPEG")[:-9],
        "f.jpg": stored(picture(0), "PNG"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = examine([tmp_path / name for name in contents], [decode] * 5)
    assert [finding.fault.split(" ")[0] for finding in found] == [
        "empty", "not", "cut", "cut", "",
    ]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_more_pixels_than_memory_is_asked_for(tmp_path):
    """A few bytes that promise 10^9 or 10^8 pixels."""
    for number, side in enumerate((40_000, 10_000)):
        file = tmp_path / f"{number}.png"
        file.write_bytes(deep_png(np.zeros((2, 2, 1), np.uint16), promised=(side, side)))
        finding, = examine([file], [True])
        assert "more than 89,478,485 pixels" in finding.fault
