"""``voc:DIR``: what is read, what is left out, what is refused."""

import dataclasses
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dataloader
from registry import UserError
from tests.dataloader.pictures import deep_png, save, save_turned

REAL = os.environ.get("BCCD")
SIZE = (40, 60)  # height, width


def write_xml(file, objects, size=SIZE, encoding=None):
    body = "".join(
        f"<object><name>{name}</name><difficult>{int(hard)}</difficult><bndbox>"
        f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>"
        "</bndbox></object>"
        for name, box, hard in objects
    )
    declared = f'<?xml version="1.0" encoding="{encoding}"?>' if encoding else ""
    file.write_text(
        f"{declared}<annotation><size><width>{size[1]}</width><height>{size[0]}</height>"
        f"<depth>3</depth></size>{body}</annotation>",
        encoding=encoding or "utf-8",
    )


@pytest.fixture
def top(tmp_path):
    """Images a0 .. a7, the last two for testing; a cat in each, a dog in the even ones."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    for number in range(8):
        random = np.random.default_rng(number)
        picture = Image.fromarray(random.integers(0, 256, [*SIZE, 3]).astype(np.uint8))
        picture.save(tmp_path / "JPEGImages" / f"a{number}.jpg")
        objects = [("cat", (1 + number, 1, 20, 30), False)]
        if number % 2 == 0:
            objects.append(("dog", (31, 11, 60, 40), number == 6))
        write_xml(tmp_path / "Annotations" / f"a{number}.xml", objects)
    lists = {"train": range(4), "val": (4, 5), "trainval": range(6), "test": (6, 7)}
    for name, numbers in lists.items():
        names = "".join(f"a{number}\n" for number in numbers)
        (tmp_path / "ImageSets" / "Main" / f"{name}.txt").write_text(names)
    return tmp_path


def load(top, **options):
    return dataloader.load_scenes(f"voc:{top}", **options)


def annotation(top, number):
    return top / "Annotations" / f"a{number}.xml"


def write_list(top, name, lines, encoding="utf-8"):
    file = top / "ImageSets" / "Main" / f"{name}.txt"
    file.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))


def test_boxes_are_read_and_scaled(top):
    scenes = load(top, size=(80, 60))
    assert scenes.class_names == ("cat", "dog") and scenes.image_shape == (80, 60, 3)
    assert len(scenes.train) == 6 and len(scenes.test) == 2 and not scenes.notes
    # VOC's pixels 1..20 and 1..30 of 60x40, the height doubled.
    np.testing.assert_allclose(scenes.train.boxes[0], [[0, 0, 20, 60], [30, 20, 60, 80]])
    np.testing.assert_allclose(scenes.train.boxes[1], [[1, 0, 20, 60]])
    assert scenes.train.labels[0].tolist() == [0, 1]
    assert scenes.test.difficult[0].tolist() == [False, True]


def test_facts_tell_other_scenes(top):
    scenes, again = load(top), load(top)
    assert scenes.facts() == again.facts()
    train = scenes.train
    for changed in (
        dataclasses.replace(train, boxes=[boxes + 1 for boxes in train.boxes]),
        dataclasses.replace(train, images=255 - train.images),
    ):
        assert dataclasses.replace(scenes, train=changed).facts() != scenes.facts()


def test_images_are_the_files_in_the_order_of_the_list(top):
    scenes = load(top, size=SIZE)
    for place, number in enumerate(range(6)):
        with Image.open(top / "JPEGImages" / f"a{number}.jpg") as picture:
            difference = scenes.train.images[place].astype(int) - np.asarray(picture)
        assert np.abs(difference).mean() < 3  # decoders of JPEG differ a little


def test_lists_of_2012_are_train_and_val(top):
    (top / "ImageSets" / "Main" / "test.txt").unlink()
    scenes = load(top)  # beside trainval, which has both
    assert len(scenes.train) == 4 and len(scenes.test) == 2
    (top / "ImageSets" / "Main" / "trainval.txt").unlink()
    scenes = load(top)
    assert len(scenes.train) == 4 and len(scenes.test) == 2


def test_a_box_without_area_is_left_out_alone(top):
    write_xml(annotation(top, 1), [("cat", (9, 9, 9, 20), False), ("cat", (5, 5, 9, 9), False)])
    scenes = load(top, size=SIZE)
    assert len(scenes.train) == 6
    np.testing.assert_allclose(scenes.train.boxes[1], [[4, 4, 9, 9]])
    note, = scenes.notes
    assert "a1.xml" in note and "object 1 (cat) has no area" in note


def test_a_box_that_reaches_out_of_its_image_is_cut_off(top):
    write_xml(annotation(top, 1), [("cat", (5, 5, 999, 9), False), ("cat", (1, 1, 61, 41), False)])
    scenes = load(top, size=SIZE)
    np.testing.assert_allclose(scenes.train.boxes[1], [[4, 4, 60, 9], [0, 0, 60, 40]])
    note, = scenes.notes
    assert "a1.xml: the box of object 1 (cat) extends beyond its 60x40 pixels" in note


def test_an_image_without_objects_stays(top):
    write_xml(annotation(top, 2), [])
    scenes = load(top)
    assert len(scenes.train) == 6 and len(scenes.train.boxes[2]) == 0


def missing_annotation(top):
    annotation(top, 1).unlink()


def missing_image(top):
    (top / "JPEGImages" / "a1.jpg").unlink()


def truncated_annotation(top):
    annotation(top, 1).write_text(annotation(top, 1).read_text()[:150])


def truncated_image(top):
    file = top / "JPEGImages" / "a1.jpg"
    file.write_bytes(file.read_bytes()[:-400])


def other_image(top):
    write_xml(annotation(top, 1), [("cat", (1, 1, 5, 5), False)], size=(60, 40))


def unknown_class(top):
    write_xml(annotation(top, 1), [("cta", (1, 1, 5, 5), False)])


def no_number(top):
    write_xml(annotation(top, 1), [("cat", (1, "x", 5, 5), False)])


def outside(top):
    write_xml(annotation(top, 1), [("cat", (100, 1, 120, 5), False)])


def no_image(top):
    (top / "JPEGImages" / "a1.jpg").write_text("not found")


FAULTS = {
    missing_annotation: r"a1\.xml: No such file",
    missing_image: r"a1\.jpg: No such file",
    truncated_annotation: r"a1\.xml: not XML, or cut off",
    truncated_image: r"a1\.jpg: cut off",
    other_image: r"a1\.jpg: 60x40, but its annotation says 40x60",
    unknown_class: r"a1\.xml: class 'cta' is not one of cat, dog",
    no_number: r"a1\.xml: object 1 has 'x' for bndbox/ymin; expected a number",
    outside: r"a1\.jpg: the box of object 1 lies outside",
    no_image: r"a1\.jpg: not a JPEG",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_faulty_file_is_named_counted_and_left_out_or_refused(top, fault):
    fault(top)
    scenes = load(top, max_bad=1)
    assert len(scenes.train) == 5
    named, counted = scenes.notes
    assert re.search(FAULTS[fault], named)
    assert "1 of 8 images left out" in counted
    with pytest.raises(UserError) as refusal:
        load(top, max_bad=0)
    message = str(refusal.value)
    assert "1 of 8 images are faulty, 0 allowed" in message and "a1" in message
    assert "\n" not in message


def test_a_test_image_of_a_class_that_is_not_trained_is_faulty(top):
    write_xml(annotation(top, 7), [("bird", (1, 1, 9, 9), False)])
    assert "'bird' is not one of cat, dog" in load(top).notes[0]
    named = load(top, class_names=["bird", "cat", "dog"])
    assert named.class_names == ("bird", "cat", "dog") and not named.notes


def test_many_faults_are_named_and_counted_in_one_line(top):
    for number in range(6):
        annotation(top, number).write_text("")
    with pytest.raises(UserError, match="6 of 8 images are faulty, 2 allowed.* and 1 more"):
        load(top, max_bad=2)
    with pytest.raises(UserError, match="no class occurs in two training images"):
        load(top)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda top: (top / "ImageSets/Main/trainval.txt").write_text("a0\na7\n"), "a7"),
        (lambda top: (top / "Annotations").rename(top / "labels"), "Annotations"),
        (lambda top: (top / "JPEGImages").rename(top / "images"), "JPEGImages.*--images and"),
        (lambda top: [file.unlink() for file in (top / "ImageSets/Main").glob("t*t.txt")]
            + [file.unlink() for file in (top / "ImageSets/Main").glob("val.txt")],
         "Main has trainval.txt, train.txt; expected"),
        (lambda top: write_list(top, "trainval", ["a0", "a1", "a0"]), "'a0' 2 times; expected"),
        (lambda top: write_list(top, "trainval", ["a0", "../a1"]), "'../a1' leads out of the"),
        (lambda top: write_list(top, "trainval", ["a0", "b/../../a1"]), "leads out of the folder"),
        (lambda top: write_list(top, "test", ["a7", "/etc/a6"]), "'/etc/a6' leads out of the"),
        (lambda top: write_list(top, "test", ["a7", "C:\\a6"]), "leads out of the folder"),
        (lambda top: write_list(top, "test", ["a7", "..\\a6"]), "leads out of the folder"),
        (lambda top: write_list(top, "test", ["a7", "a\0.6"]), "test.txt has control characters"),
        (lambda top: write_list(top, "test", ["a7", "ä"], "latin-1"), "test.txt is not utf-8"),
        (lambda top: write_list(top, "test", ["a6"], "utf-16-be"), "control characters"),
        (lambda top: pipe(top / "ImageSets/Main/test.txt"), "test.txt: is a named pipe"),
        (lambda top: folder_instead(top / "ImageSets/Main/test.txt"), "test.txt: is a folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_folder_that_cannot_be_used_is_refused(top, change, message):
    change(top)
    with pytest.raises(UserError, match=message):
        load(top)


def pipe(file):
    file.unlink()
    os.mkfifo(file)


def folder_instead(file):
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_those_of_the_image_turned_upright(top, orientation, suffix):
    upright = np.zeros((*SIZE, 3), np.uint8)
    upright[4:16, 8:30] = 255  # as a person sees it, and as the annotation says
    for number in range(8):
        (top / "JPEGImages" / f"a{number}.jpg").unlink()
        save_turned(upright, top / "JPEGImages" / f"a{number}{suffix}", orientation)
        write_xml(annotation(top, number), [("cat", (9, 5, 30, 16), False)])
    scenes = load(top, size=SIZE, max_bad=0)
    assert not scenes.notes
    for image, (box,) in zip(scenes.train.images, scenes.train.boxes, strict=True):
        np.testing.assert_array_equal(box, [8, 4, 30, 16])
        assert np.abs(image.astype(int) - upright).mean() < 2


def test_an_annotation_of_the_image_not_turned_is_told(top):
    save_turned(np.zeros((60, 40, 3), np.uint8), top / "JPEGImages" / "a1.jpg", 6)
    named, _ = load(top).notes
    assert "a1.jpg: 40x60, but its annotation says 60x40" in named and "EXIF" in named


def test_images_that_are_not_ordinary(top):
    """Transparent and of 16 bits, by arithmetic."""
    ink = np.zeros((*SIZE, 4), np.uint8)
    ink[5:20, 5:20, 3] = 255
    deep = np.random.default_rng(0).integers(0, 65536, (*SIZE, 1)).astype(np.uint16)
    for number in (0, 1):
        (top / "JPEGImages" / f"a{number}.jpg").unlink()
    save(ink, top / "JPEGImages" / "a0.PNG")
    (top / "JPEGImages" / "a1.png").write_bytes(deep_png(deep))
    drawn, grey = load(top, size=SIZE, max_bad=0).train.images[:2]
    np.testing.assert_array_equal(drawn, 255 - ink[..., 3:].repeat(3, -1))
    np.testing.assert_allclose(grey, (deep / 257).repeat(3, -1), atol=0.51)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_name_files_with_blanks_in_any_unicode(top, encoding):
    names = ["my photo 1", "Käfer", "sub/蜂 2", "photo.v2"]
    on_disk = [unicodedata.normalize("NFD", name) for name in names[:4]]
    for number, name in enumerate(on_disk):
        for part, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
            file = top / part / f"{name}.{suffix}"
            file.parent.mkdir(exist_ok=True)
            (top / part / f"a{number}.{suffix}").rename(file)
    write_list(top, "trainval", [*names[:2], "photo.v2.jpg", "  sub/蜂 2  ", "a4  -1"], encoding)
    write_list(top, "test", ["a6   1", "a7.JPG"], encoding)
    scenes = load(top, size=SIZE, max_bad=0)
    assert not scenes.notes and len(scenes.test) == 2
    expected = [1, 2, 4, 3, 5]  # left edges of a0 .. a4 in the order of the list
    assert [int(boxes[0][0]) + 1 for boxes in scenes.train.boxes] == expected


@pytest.mark.parametrize("encoding", [
    "utf-8", "utf-16", "iso-8859-1", "windows-1252", "gbk", "shift_jis", "big5",
])  # fmt: skip
def test_annotations_in_the_encoding_that_they_declare(top, encoding):
    name = "K\xe4fer" if encoding[0] in "uiw" else "木"
    for number in range(8):
        objects = [(name, (1, 1, 9, 9), False)]
        write_xml(annotation(top, number), objects, encoding=encoding)
    assert load(top, max_bad=0).class_names == (name,)


BOMB = (
    '<!DOCTYPE a [<!ENTITY x0 "ha">'
    + "".join(f'<!ENTITY x{i} "{f"&x{i - 1};" * 10}">' for i in range(1, 12)) + "]><a>&x11;</a>"
)
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>'


@pytest.mark.parametrize("content", [
    "<a>K\xe4fer</a>".encode("latin-1"), b'<?xml version="1.0" encoding="klingon"?><a/>',
    b'<?xml version="1.0" encoding="hex"?><a/>', BOMB.encode(), EXTERNAL.encode(),
    b"<a>" * 200_000, b"<a>\0</a>", b"\xff\xfe<\0a", b"",
], ids=["latin", "unknown", "hex", "bomb", "external", "deep", "zero", "half", "empty"])
def test_odd_annotations_are_left_out_by_name(top, content):
    annotation(top, 1).write_bytes(content)
    named, _ = load(top, max_bad=1).notes
    assert named.startswith("Annotations/a1.xml: not ") and "left out" in named


def test_nested_without_end(top):
    annotation(top, 1).write_bytes(b"<annotation>" + b"<a>" * 10**6 + b"</a>" * 10**6
                                   + b"</annotation>")
    assert len(load(top).train.boxes[1]) == 0


def test_numbers_without_end(top):
    write_xml(annotation(top, 1), [("cat", (1, 1, "9" * 5000, 9), False)], ("9" * 5000, 60))
    assert len(load(top).train) == 5


@pytest.mark.parametrize("file", ["JPEGImages/a1.jpg", "Annotations/a1.xml"])
@pytest.mark.parametrize("instead", [pipe, folder_instead])
def test_what_is_no_file_is_named_and_never_opened(top, file, instead):
    instead(top / file)
    named, _ = load(top, max_bad=1).notes
    kind = "a named pipe" if instead is pipe else "a folder"
    assert named == f"{file}: is {kind}, not a file; left out"


def test_two_images_of_one_name(top):
    save(np.zeros((*SIZE, 3), np.uint8), top / "JPEGImages" / "a1.png")
    named, _ = load(top, max_bad=1).notes
    assert "JPEGImages/a1.jpg and JPEGImages/a1.png; expected one image" in named


@pytest.mark.parametrize("together", [False, True])
def test_images_and_annotations_elsewhere(top, tmp_path_factory, together):
    other = tmp_path_factory.mktemp("other")
    expected = load(top)
    (top / "JPEGImages").rename(other / "photos")
    if together:
        for file in (top / "Annotations").iterdir():
            file.rename(other / "photos" / file.name)
    else:
        (top / "Annotations").rename(other / "labels")
    scenes = load(
        top, images=other / "photos", annotations=str(other / ("photos" if together else "labels"))
    )
    np.testing.assert_array_equal(scenes.train.images, expected.train.images)
    assert [boxes.tolist() for boxes in scenes.test.boxes] == [
        boxes.tolist() for boxes in expected.test.boxes
    ]


def test_without_lists_the_seed_chooses_the_test_images(top):
    for file in (top / "ImageSets/Main").iterdir():
        file.unlink()
    save(np.zeros((*SIZE, 3), np.uint8), top / "JPEGImages" / "unlabelled.png")
    splits = []
    for seed in (0, 0, 1, 2, 3):
        scenes = load(top, seed=seed, size=SIZE)
        assert len(scenes.train) == 6 and len(scenes.test) == 2  # a fifth of eight, rounded
        lists, without = scenes.notes
        assert "has no lists: 2 of 8 images" in lists
        assert "1 images have no annotation, for example unlabelled" in without
        edges = [sorted(int(boxes[0][0]) for boxes in part.boxes)
                 for part in (scenes.train, scenes.test)]
        assert sorted(sum(edges, [])) == list(range(8))
        splits.append(edges[1])
    assert splits[0] == splits[1] and any(split != splits[0] for split in splits)
    (top / "ImageSets" / "Main").rmdir()
    assert len(load(top).test) == 2


def test_lists_beside_the_images(top):
    for file in (top / "ImageSets/Main").iterdir():
        file.rename(top / file.name)
    assert len(load(top).train) == 6


def test_scenes_of_single_colours_are_told(top):
    for number in range(8):
        save(np.full((*SIZE, 3), 7, np.uint8), top / "JPEGImages" / f"a{number}.jpg")
    note, = load(top).notes
    assert "every training image has a single colour" in note


def test_names_of_classes_that_are_given(top):
    with pytest.raises(UserError, match="class name 'cat' occurs 2 times"):
        load(top, class_names=["cat", "dog", "cat"])
    with pytest.raises(UserError, match="class name ''; expected text"):
        load(top, class_names=["cat", ""])
    with pytest.raises(UserError, match="no folders of images and annotations: only voc:DIR"):
        dataloader.load_scenes("digits", images=top)


def test_scenes_without_boxes_are_refused(top):
    for number in (6, 7):
        write_xml(annotation(top, number), [])
    with pytest.raises(UserError, match="2 test images without a single box"):
        load(top)


def test_names_of_sources():
    assert dataloader.is_scenes("voc:x") and dataloader.is_scenes("voc/2007")
    assert dataloader.is_scenes("digits") and not dataloader.is_scenes("cifar100")
    with pytest.raises(UserError, match="expected voc:DIR"):
        dataloader.load_scenes("voc:")
    with pytest.raises(UserError, match="takes nothing after a colon"):
        dataloader.load_scenes("digits:x")
    with pytest.raises(UserError, match="did you mean 'voc'"):
        dataloader.load_scenes("vco:x")


@pytest.mark.skipif(not REAL or not Path(REAL).is_dir(), reason="BCCD names no folder")
def test_blood_cells():
    scenes = load(REAL)
    assert scenes.class_names == ("Platelets", "RBC", "WBC")
    assert len(scenes.train) + len(scenes.test) == 364
    assert sum("no area" in note for note in scenes.notes) == 2 == len(scenes.notes)
