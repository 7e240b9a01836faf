"""Good inputs of every kind, small: what the campaign spoils copies of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz import children

CLASSES = 4
ANNOTATION = """<annotation><filename>{name}.jpg</filename>
<size><width>40</width><height>32</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>25</ymax></bndbox></object>
<object><name>dog</name><difficult>1</difficult>
<bndbox><xmin>20</xmin><ymin>2</ymin><xmax>39</xmax><ymax>30</ymax></bndbox></object>
</annotation>
"""
NPZ = "--dataset=npz:data.npz"
OWN = ("--teacher_model=teacher.keras", "--student_model=student.keras", "--teacher_taps=a,b",
       "--student_taps=a,b")
ONE = ("--epochs=1", "--batch_size=20", "--crop_padding=1")
ALONE = ("--Distillation=None", NPZ, "--student_model=student.keras", "--deterministic",
         "--batch_size=20", "--crop_padding=1")
TTE = (NPZ, "--tasks=rotation", "--regularizer=none", "--ensemble=none", "--encoder_model="
       "student.keras", "--epochs=1", "--batch_size=20", "--deterministic")
SCORED = (NPZ, "--encoder=pixels", "--targets=clustering", "--seeds=1")
COMPARED = ("--Distillation=None", "--seeds=1", "--compare_dir=comparison", NPZ,
            "--student_model=student.keras", *ONE)


def pictures(count: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random images, uint8 ``[count, *shape]``."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def make_arrays(folder: Path) -> None:
    """``data.npz`` and ``omniglot.npz``."""
    labels = np.arange(40) % CLASSES
    np.savez(
        folder / "data.npz", x_train=pictures(40, (8, 8, 3)), y_train=labels,
        x_test=pictures(12, (8, 8, 3), 1), y_test=labels[:12], classes=np.array(list("abcd")),
    )
    np.savez(
        folder / "omniglot.npz", images=pictures(40, (8, 8)) % 2, y=labels,
        drawer=np.arange(40) // 10,
    )


def make_pictures(folder: Path) -> None:
    """``pictures/train/CLASS/*`` of several formats, and ``voc`` with its lists."""
    kinds = ("png", "jpg", "gif", "bmp", "tif", "webp")
    for part, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(("ant", "bee", "cat", "dog")):
            place = folder / "pictures" / part / name
            place.mkdir(parents=True)
            for number, image in enumerate(pictures(count, (9, 8, 3), label)):
                Image.fromarray(image).save(place / f"{number}.{kinds[number % len(kinds)]}")
    for inner in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / "voc" / inner).mkdir(parents=True)
    names = [f"im{number}" for number in range(8)]
    for name, image in zip(names, pictures(len(names), (32, 40, 3)), strict=True):
        Image.fromarray(image).save(folder / f"voc/JPEGImages/{name}.jpg")
        (folder / f"voc/Annotations/{name}.xml").write_text(ANNOTATION.format(name=name))
    for part, own in (("train", names[:5]), ("test", names[5:])):
        (folder / f"voc/ImageSets/Main/{part}.txt").write_text("\n".join(own))


def make_networks(folder: Path) -> None:
    """``teacher.keras``, ``student.keras``, ``whole.h5``, weights and the published form."""
    import keras
    import scipy.io

    import nets

    def network(name: str, width: int) -> keras.Model:
        image = maps = keras.Input((8, 8, 3), name="image")
        for tap in ("a", "b"):
            maps = keras.layers.Conv2D(width, 3, 2, "same", use_bias=False)(maps)
            maps = keras.layers.BatchNormalization()(maps)
            maps = keras.layers.ReLU(name=tap)(maps)
        pooled = keras.layers.GlobalAveragePooling2D()(maps)
        return keras.Model(image, keras.layers.Dense(CLASSES)(pooled), name=name)

    keras.utils.set_random_seed(0)
    teacher, student = network("teacher", 8), network("student", 6)
    teacher.save(folder / "teacher.keras")
    student.save(folder / "student.keras")
    teacher.save(folder / "whole.h5")
    registered = nets.build("MobileNet_teacher", (8, 8, 3), CLASSES, width=8, first=8)
    registered.save_weights(folder / "net.weights.h5")
    published = nets.build("VGG_student", (16, 16, 3), CLASSES)
    scipy.io.savemat(folder / "net.mat", published_variables(published))


def published_variables(model: object) -> dict[str, np.ndarray]:
    """A network's weights by the names that the published code gave them."""
    counts = {"conv": 0, "full": 0}
    found = {}
    for layer in model.layers:
        if layer.weights:
            conv = layer.weights[0].ndim == 4
            number = counts["conv" if conv else "full"]
            name = f"block{number}/conv0" if conv else f"full{number}"
            counts["conv" if conv else "full"] += 1
            found[f"vgg/{name}/weights"] = np.asarray(layer.weights[0])
            found[f"vgg/{name}/biases"] = np.asarray(layer.weights[1])
    return found


def make_flags(folder: Path) -> None:
    """``run.flags``, a file of flags that every command has."""
    lines = ["# a comment", NPZ, "--image_size=8", "", "--validation_fraction=0.2", "--seed=3"]
    (folder / "run.flags").write_text("\n".join(lines))


def run(words: list[str], folder: Path) -> None:
    """Run a command that has to end well."""
    ended = children.run_command(words, folder, most_seconds=300)
    if ended.status:
        raise RuntimeError(f"{words}: {ended}")


def make_runs(folder: Path) -> None:
    """``run``, which is finished, and ``cut``, which has one of two epochs behind it."""
    words = ["train_w_distill", *ALONE, "--epochs=2"]
    run([*words, "--train_dir=run"], folder)
    shutil.copytree(folder / "run", folder / "cut")
    for name in ("summary.json", "student.keras", "checkpoints/000002-000000.npz"):
        (folder / "cut" / name).unlink()


def make_encoders(folder: Path) -> None:
    """``tte``, a finished run with its export."""
    run(["pretrain_tte", *TTE, "--targets=", "--train_dir=tte"], folder)


def make_scores(folder: Path) -> None:
    """``scored``, a finished evaluation, and ``unscored``, one of which a file is missing."""
    run(["evaluate", *SCORED, "--out_dir=scored"], folder)
    shutil.copytree(folder / "scored", folder / "unscored")
    (folder / "unscored/summary.json").unlink()


def make_comparison(folder: Path) -> None:
    """``comparison``, all of whose runs are finished."""
    run(["compare", *COMPARED], folder)


MAKERS: dict[str, Callable[[Path], None]] = {
    "arrays": make_arrays,
    "pictures": make_pictures,
    "networks": make_networks,
    "flags": make_flags,
    "runs": make_runs,
    "encoders": make_encoders,
    "scores": make_scores,
    "comparison": make_comparison,
}
IN_CHILD = {"pictures", "networks"}
NEEDS = {"runs": ("arrays", "networks"), "encoders": ("arrays", "networks"),
         "scores": ("arrays",), "comparison": ("arrays", "networks")}


class Material:
    """The good inputs, made when they are first asked for.

    Args:
        folder: where they are made.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._made: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def need(self, *names: str) -> None:
        """Make what is not there yet."""
        for name in names:
            if name in self._made:
                continue
            self.need(*NEEDS.get(name, ()))
            if name in IN_CHILD:  # uses TensorFlow
                children.call(lambda name=name: MAKERS[name](self.folder), self.folder)
            else:
                MAKERS[name](self.folder)
            self._made.add(name)
