"""``voc:DIR``: what is read, what is left out, what is refused."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dataloader
from registry import UserError

REAL = os.environ.get("BCCD")
SIZE = (40, 60)  # height, width


def write_xml(file, objects, size=SIZE):
    body = "".join(
        f"<object><name>{name}</name><difficult>{int(hard)}</difficult><bndbox>"
        f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>"
        "</bndbox></object>"
        for name, box, hard in objects
    )
    file.write_text(
        f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth>"
        f"</size>{body}</annotation>"
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


def test_boxes_are_read_and_scaled(top):
    scenes = load(top, size=(80, 60))
    assert scenes.class_names == ("cat", "dog") and scenes.image_shape == (80, 60, 3)
    assert len(scenes.train) == 6 and len(scenes.test) == 2 and not scenes.notes
    # VOC's pixels 1..20 and 1..30 of 60x40, the height doubled.
    np.testing.assert_allclose(scenes.train.boxes[0], [[0, 0, 20, 60], [30, 20, 60, 80]])
    np.testing.assert_allclose(scenes.train.boxes[1], [[1, 0, 20, 60]])
    assert scenes.train.labels[0].tolist() == [0, 1]
    assert scenes.test.difficult[0].tolist() == [False, True]


def test_images_are_the_files_in_the_order_of_the_list(top):
    scenes = load(top, size=SIZE)
    for place, number in enumerate(range(6)):
        with Image.open(top / "JPEGImages" / f"a{number}.jpg") as picture:
            difference = scenes.train.images[place].astype(int) - np.asarray(picture)
        assert np.abs(difference).mean() < 3  # decoders of JPEG differ a little


def test_lists_of_2012_are_train_and_val(top):
    (top / "ImageSets" / "Main" / "test.txt").unlink()
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
    assert "a1.xml: the box of object 1 (cat) reaches out of its 60x40 pixels" in note


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
    truncated_annotation: r"a1\.xml: no XML, or cut off",
    truncated_image: r"a1\.jpg: cut off",
    other_image: r"a1\.jpg: 60x40, but its annotation says 40x60",
    unknown_class: r"a1\.xml: class 'cta' is not one of cat, dog",
    no_number: r"a1\.xml: object 1 has 'x' for bndbox/ymin, no number",
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
    with pytest.raises(UserError, match="no class is in two training images"):
        load(top)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda top: (top / "ImageSets/Main/trainval.txt").write_text("a0\na7\n"), "a7"),
        (lambda top: (top / "Annotations").rename(top / "labels"), "Annotations"),
        (lambda top: [file.unlink() for file in (top / "ImageSets/Main").iterdir()], "nothing"),
    ],
    ids=["image in both", "no annotations", "no lists"],
)
def test_a_folder_that_cannot_be_used_is_refused(top, change, message):
    change(top)
    with pytest.raises(UserError, match=message):
        load(top)


def test_scenes_without_boxes_are_refused(top):
    for number in (6, 7):
        write_xml(annotation(top, number), [])
    with pytest.raises(UserError, match="2 test images without a single box"):
        load(top)


def test_names_of_sources():
    assert dataloader.is_scenes("voc:x") and dataloader.is_scenes("voc/2007")
    assert dataloader.is_scenes("digits") and not dataloader.is_scenes("cifar100")
    with pytest.raises(UserError, match="voc:DIR expected"):
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
