"""The script as a person at the keyboard sees it: what it prints, writes, refuses and leaves."""

import dataclasses
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import termios
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import requests
import scipy.io
import tensorflow as tf
from absl import flags
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dataloader
import distillers
import nets
import train_w_distill
from distillers.registration import METHODS
from experiment.command.main import run
from experiment.command.options import values
from experiment.report import curves, vector_maps
from experiment.run import arrays, workers
from experiment.run.checkpoints import Checkpoints
from experiment.run.folder import RunFolder
from experiment.run.training import read_history
from nets.quantization import FakeQuantize
from settings import distillation
from settings.distillation import Settings
from settings.networks import create_method
from tests.commands import own_flags, script_caller
from tests.distillers import models
from tests.distillers.models import built_loss
from tests.processes import (
    assert_alone,
    assert_same_run,
    everything_in,
    flags_by_group,
    start,
    stop_at,
    with_times,
    without_times,
)
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "train_w_distill.py"
SMALL = (
    "--net=MobileNet", "--teacher_options=width=8,first=8", "--student_options=width=8,first=8",
)
WITH_TEACHER = (*SMALL, "--teacher={files}/teacher.keras")
FEW_LAYERS = (
    "--teacher={files}/few_layers_teacher.keras", "--teacher_taps=tap1,tap2,tap3",
    "--student_model={files}/few_layers_student.keras", "--student_taps=tap1,tap2,tap3",
)
OF_DIGITS = (
    *(word.replace("few_layers_", "digits_") for word in FEW_LAYERS), "--dataset=digits",
    "--image_size=8", "--train_images=40",
)

CLASSES = 4
DIGITS = 10
STEPS_OF_THE_KILLED = 2
SAMPLES = 43  # unlike the number of anything else


@pytest.fixture
def script(monkeypatch, capsys):
    """Call the script within this process: ``script(*arguments)`` gives status, out and err."""

    def begin():
        run(train_w_distill.main, distillation.read_settings(train_w_distill.__doc__))

    return script_caller("train_w_distill.py", begin, monkeypatch, capsys)


def images(count, size=8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), np.uint8)


def save_data(path, **changed):
    labels = np.arange(40) % CLASSES
    content = {
        "x_train": images(40), "y_train": labels, "x_test": images(12, seed=1),
        "y_test": labels[:12], **changed,
    }
    np.savez(path, **content)


def few_layers(name, blocks, classes=CLASSES, shape=(8, 8, 3)):
    """Three taps and few layers, as a run's time here is that of tracing them."""
    image = maps = keras.Input(shape)
    for index, width in enumerate((8, 16, 16), start=1):
        for block in range(blocks):
            strides = 2 if index > 1 and block == 0 else 1
            maps = keras.layers.Conv2D(width, 3, strides, "same", use_bias=False)(maps)
            maps = keras.layers.BatchNormalization()(maps)
            maps = keras.layers.ReLU(name=f"tap{index}" if block == blocks - 1 else None)(maps)
    embedding = keras.layers.GlobalAveragePooling2D()(maps)
    return keras.Model(image, keras.layers.Dense(classes, name="logits")(embedding), name=name)


def network(name, **options):
    shape = options.pop("shape", (8, 8, 3))
    return nets.build(name, shape, options.pop("classes", CLASSES), width=8, first=8, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with whatever may be given to the script, good and bad."""
    folder = tmp_path_factory.mktemp("files")
    save_data(folder / "good.npz")
    save_data(folder / "two.npz", y_train=np.arange(40) % 2, y_test=np.arange(12) % 2)
    save_data(folder / "negative.npz", y_train=np.arange(40) % CLASSES - 1)
    save_data(folder / "empty_class.npz", y_train=np.arange(40) % 3)
    save_data(folder / "float.npz", x_train=images(40) / 255)
    save_data(folder / "short.npz", y_train=np.arange(39) % CLASSES)
    good = (folder / "good.npz").read_bytes()
    (folder / "cut.npz").write_bytes(good[: len(good) // 2])
    middle = len(good) // 3
    (folder / "damaged.npz").write_bytes(good[:middle] + b"damage" + good[middle + 6:])
    (folder / "text").write_text("This is no network.\n")
    for ending in (".keras", ".weights.h5", ".h5", ".mat", ".npz", ".ckpt"):
        shutil.copy(folder / "text", folder / f"text{ending}")
    teacher = network("MobileNet_teacher")
    teacher.save(folder / "teacher.keras")
    teacher.save_weights(folder / "teacher.weights.h5")
    network("MobileNet_teacher", shape=(8, 8, 1)).save(folder / "grey.keras")
    network("MobileNet_teacher", classes=7).save(folder / "seven.keras")
    network("MobileNet_teacher", classes=2).save(folder / "two.keras")
    network("MobileNet_teacher", classes=7).save_weights(folder / "seven.weights.h5")
    for role, blocks in (("teacher", 2), ("student", 1)):
        few_layers(role, blocks).save(folder / f"few_layers_{role}.keras")
        few_layers(role, blocks, DIGITS).save(folder / f"digits_{role}.keras")
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(8, 3, name="one")(image)
    logits = keras.layers.Dense(CLASSES)(keras.layers.Flatten()(maps))
    keras.Model(image, logits, name="own").save(folder / "own.keras")
    maps = keras.layers.Conv2D(8, 3, activation="swish", name="odd")(image)
    logits = keras.layers.Dense(CLASSES)(keras.layers.Flatten()(maps))
    keras.Model(image, logits, name="swish").save(folder / "swish.keras")
    vector = keras.Input((3,))
    keras.Model(vector, keras.layers.Dense(4, name="one")(vector)).save(folder / "vector.keras")
    scipy.io.savemat(folder / "other.mat", {"a/weights": np.zeros((3, 3, 3, 8))})
    (folder / "run").mkdir()
    (folder / "run" / "settings.json").write_text("{}")
    (folder / "run" / ".lock").touch()
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.tex").write_text("mine")
    return folder


MISTAKES = {
    # Names
    "method": (["--Distillation=SSKD_SVDD"], "'SSKD_SVDD' (did you mean 'SSKD_SVD'?)"),
    "method's form": (["--Distillation=SSKD_SVD(num_dfv"], "expected NAME or NAME("),
    "methods": (["--Distillation=AT(weight=1),SP"], "or their sum AT(weight=1)+SP (compare.py"),
    "no method": (["--Distillation="], "expected NAME"),
    "net": (["--net=VVG"], "'VVG' (did you mean 'VGG'?)"),
    "student net": (["--student_net=MobileNetstudnt"], "did you mean 'MobileNet_student'"),
    "teacher net": (["--teacher_net=ResNextTeacher1"], "did you mean 'ResNeXt_teacher'"),
    "data set": (["--dataset=digit"], "did you mean 'digits'"),
    "data set of tfds": (["--dataset=cifr100"], "did you mean 'cifar100'"),
    "kind of data set": (["--dataset=nzp:x"], "did you mean 'npz'"),
    "flag": (["--epoch=1"], "Unknown command line flag 'epoch'. Did you mean: epochs"),
    "argument": (["SSKD_SVD"], "unexpected argument 'SSKD_SVD'; give every setting as a flag"),
    "optimizer": (["--optimizer=sdg"], "'sdg' (did you mean 'sgd'?); expected one of sgd, adam"),
    "schedule": (["--schedule=cosin"], "did you mean 'cosine'"),
    "strategy": (["--strategy=mirror"], "did you mean 'mirrored'"),
    "main loss": (["--main_loss=entropy"], "expected one of cross_entropy, none"),
    "flagfile": (["--flagfile=presets/none.flags"], "presets/none.flags"),
    # Hyper-parameters and options
    "another method's hyper-parameter": (
        ["--temperature=2"], "SSKD_SVD has no hyper-parameter 'temperature'; it has: num_dfv",
    ),
    "hyper-parameter": (["--Distillation=SSKD_SVD(num_dvf=2)"], "did you mean 'num_dfv'"),
    "hyper-parameter of None": (
        ["--Distillation=None", "--num_dfv=2"], "it has: head_share",
    ),
    "num_dfv=0": (["--num_dfv=0"], "num_dfv must be at least 1, not 0"),
    "num_dfv=abc": (["--num_dfv=abc"], "num_dfv must be", "not 'abc'"),
    "gradient": (["--gradient=exakt"], "'exakt' (did you mean 'exact'?); expected one of exact"),
    "temperature": (["--Distillation=Soft_logits", "--temperature=-1"], "must be above 0, not -1"),
    "temperature nan": (["--Distillation=Soft_logits", "--temperature=nan"], "a finite number"),
    "a hyper-parameter of two methods": (
        ["--Distillation=AT+SP", "--weight=1"], 'as in --Distillation "AT(weight=1.0)"',
    ),
    "nobody knows": (
        ["--Distillation=DML", "--main_loss=none"], "DML has two networks that learn nothing but",
    ),
    "alpha": (["--Distillation=Soft_logits", "--alpha=2"], "alpha must be from 0 to 1, not 2"),
    "option": (["--student_options=widht=8"], "no option 'widht' (did you mean 'width'?)"),
    "option of another net": (["--student_options=dropout=0.5"], "its options: width, first"),
    "option's form": (["--teacher_options=width"], "'width'; expected name=number"),
    "option's value": (["--teacher_options=width=many"], "'width=many'; expected name=number"),
    "width 0": (["--teacher_options=width=0"], "width", "0"),
    "cache for maps": (
        ["--cache_teacher"], "--cache_teacher keeps the teacher's logits and embedding, but "
        "SSKD_SVD reads maps",
    ),
    "cached outputs": (["--cache_outputs=logit"], "'logit' (did you mean 'logits'?)"),
    "file format": (["--export=keras,tflite"], "unknown file format 'tflite'"),
    "file format twice": (["--export=keras,keras"], "file format 'keras' is given twice"),
    "images to calibrate on": (
        ["--export=litert-int8", "--quantize=none"], "calibrates on 100 training images",
        "has 36 here: give it more, or leave this format out",
    ),
    "file of no quantisation": (["--export=litert-qat"], "litert-qat"),
    "quantisation": (["--quantize=int4"], "unknown value 'int4' (did you mean 'int8'?)"),
    "method of quantisation": (
        ["--quantize=int8", "--quantize_distillation=Soft_logit(alpha=1)"], "did you mean 'Soft_lo",
    ),
    "quantisation of a layer": (
        ["--quantize=int8", "--student_model={files}/swish.keras", "--student_options=",
         "--Distillation=None"],
        "layer 'odd' (Conv2D) cannot be quantised: its activation is silu",
    ),
    "quantisation without labels": (
        ["--quantize=int8", "--main_loss=none"], "does not train its classifier",
    ),
    # Numbers
    "agreement": (["--min_agreement=2"], "--min_agreement must be from 0 to 1, not 2"),
    "epochs 0": (["--epochs=0"], "--epochs must be at least 1, not 0"),
    "epochs -1": (["--epochs=-1"], "--epochs must be at least 1, not -1"),
    "epochs 1.5": (["--epochs=1.5"], "--epochs must be a whole number, not '1.5'"),
    "epochs many": (["--epochs=many"], "--epochs must be a whole number, not 'many'"),
    "epochs huge": (["--epochs=100000000000000000000"], "--epochs must be at most"),
    "learning rate nan": (["--learning_rate=nan"], "--learning_rate must be a finite number"),
    "learning rate inf": (["--learning_rate=inf"], "--learning_rate must be a finite number"),
    "learning rate 0": (["--learning_rate=0"], "--learning_rate must be above 0, not 0.0"),
    "learning rate": (["--learning_rate=low"], "--learning_rate must be a number, not 'low'"),
    "weight decay": (["--weight_decay=inf"], "--weight_decay must be a finite number"),
    "momentum": (["--momentum=2"], "--momentum must be from 0 to 1"),
    "validation 1.5": (["--validation_fraction=1.5"], "must be from 0 to 0.9, not 1.5"),
    "validation -0.1": (["--validation_fraction=-0.1"], "must be from 0 to 0.9, not -0.1"),
    "seed -1": (["--seed=-1"], "--seed must be at least 0, not -1"),
    "data seed -1": (["--data_seed=-1"], "--data_seed must be at least 0"),
    "rotation": (["--rotation=400"], "--rotation must be from 0 to 180, not 400.0"),
    "crop": (["--crop_padding=8"], "padding of 8 pixels, but the images are only 8x8"),
    "switch": (["--mixed_precision=maybe"], "--mixed_precision must be true or false, not 'maybe'"),
    "batch 0": (["--batch_size=0"], "--batch_size must be at least 1, not 0"),
    "batch": (["--batch_size=37"], "batch of 37 images", "only 36 training images", "at most 36"),
    "image size": (["--image_size=4"], "at least 8x8 pixels, not 4x4"),
    "image size of VGG": (["--net=VGG", "--image_size=8", "--teacher_options=",
                           "--student_options="], "at least 16x16 pixels, not 8x8"),
    "huge images": (["--image_size=1000000"], "GiB of free memory: give a smaller --image_size"),
    "labels": (["--labelled_per_class=100"], "100"),
    "training images": (["--train_images=100"], "expected 1 to 36"),
    "no training image of a class": (["--train_images=2"], "has no image among the first 2"),
    "nothing to learn": (["--Distillation=None", "--main_loss=none"], "nothing to learn"),
    # Data
    "no npz": (["--dataset=npz:{files}/none.npz"], "no such file", "none.npz"),
    "npz of text": (["--dataset=npz:{files}/text.npz"], "text.npz is not a numpy archive"),
    "cut npz": (["--dataset=npz:{files}/cut.npz"], "cut.npz"),
    "damaged npz": (["--dataset=npz:{files}/damaged.npz"], "damaged.npz: ", "is damaged"),
    "negative label": (["--dataset=npz:{files}/negative.npz"], "negative label (-1)"),
    "empty class": (["--dataset=npz:{files}/empty_class.npz"], "class '3' has no image"),
    "float images": (["--dataset=npz:{files}/float.npz"], "expected uint8 images in 0..255"),
    "missing labels": (["--dataset=npz:{files}/short.npz"], "39 labels for 40 images"),
    "no folder": (["--dataset=folder:{files}/none"], "{files}/none"),
    "folder without images": (["--dataset=folder:{files}/foreign"], "{files}/foreign"),
    # Teachers
    "no teacher": (["--teacher={files}/none.keras"], "none.keras does not exist; expected the"),
    "teacher of text": (["--teacher={files}/text"], "unknown ending"),
    "teacher.ckpt": (["--teacher={files}/text.ckpt"], "unknown ending"),
    "keras of text": (["--teacher={files}/text.keras"], "text.keras"),
    "weights of text": (["--teacher={files}/text.weights.h5"], "text.weights.h5"),
    "h5 of text": (["--teacher={files}/text.h5"], "text.h5"),
    "mat of text": (
        ["--teacher={files}/text.mat", "--net=VGG", "--image_size=32", "--teacher_options=",
         "--student_options="], "text.mat",
    ),
    "unfinished run": (["--teacher={files}/run"], "is not finished: run its command again"),
    "folder of no run": (["--teacher={files}/foreign"], "holds no finished run"),
    "other weights": (["--teacher={files}/seven.weights.h5"], "logits", "7", "4"),
    "wider weights": (
        ["--teacher={files}/teacher.weights.h5", "--teacher_options=width=16,first=8"], "16", "8",
    ),
    "mat for a net with batch norm": (["--teacher={files}/other.mat"], "MobileNet_teacher"),
    "mat of other names": (
        ["--teacher={files}/other.mat", "--net=VGG", "--image_size=32", "--teacher_options=",
         "--student_options="], "other.mat", "block",
    ),
    "channels": (["--teacher={files}/grey.keras"], "takes images of 1 channels", "--channels 1"),
    "classes": (
        ["--teacher={files}/seven.keras", "--Distillation=Soft_logits"],
        "has 7 outputs", "has 4 classes", "--teacher_epochs N",
    ),
    "no images": (["--teacher={files}/vector.keras", "--teacher_taps=one"], "(None, 3)"),
    # Taps
    "no taps": (["--teacher={files}/own.keras"], "must be given: --teacher_taps a,b,c"),
    "unknown tap": (["--teacher_taps=stage1,stag2"], "no layer 'stag2' (did you mean 'stage2'?)"),
    "unknown tap of the student": (["--student_taps=conv,stage4"], "'MobileNet_student'", "'conv'"),
    "one tap": (["--teacher_taps=stage1", "--student_taps=stage1"], "at least 2"),
    "numbers of taps": (
        ["--teacher_taps=stage1,stage2,stage3"], "the teacher has 3, the student 4",
    ),
    "depth of taps": (
        ["--student_options=width=16,first=8", "--adapter=none"],
        "tap 1 has 8 in the teacher (stage1, ",
        "and 16 in the student (stage1, ",
    ),
    "order of taps": (
        ["--teacher_taps=stage1,stage3", "--student_taps=stage1,stage4", "--adapter=none"],
        "tap 2 has 32 in the teacher (stage3, ", "and 64 in the student (stage4, ",
    ),
    # Places
    "under a file": (["--train_dir={files}/text/run"], "text is a file; expected a folder"),
    "a file": (["--train_dir={files}/text"], "text is a file; expected a folder"),
    "unwritable": (["--train_dir=/proc/run"], "cannot write into /proc/run", "can be written"),
    "long name": ([f"--train_dir={'x' * 300}"], "cannot write into"),
    "foreign": (["--train_dir={files}/foreign"], "holds no run (it has 'thesis.tex')"),
    "foreign, to be overwritten": (
        ["--train_dir={files}/foreign", "--overwrite"], "holds no run (it has 'thesis.tex')",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_takes_one_line_and_leaves_nothing(script, files, tmp_path, monkeypatch, name):
    given, *expected = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    before = everything_in(files)
    done = script(
        *SMALL, f"--dataset=npz:{files}/good.npz", "--batch_size=16", "--crop_padding=2",
        *(argument.replace("{files}", str(files)) for argument in given),
    )
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert (done.status, done.out) == (2, "")
    for part in expected:
        assert part.replace("{files}", str(files)) in done.err
    assert not any(tmp_path.iterdir()) and everything_in(files) == before


def test_a_data_set_that_cannot_be_downloaded(script, tmp_path, monkeypatch):
    def head(*_, **__):
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "head", head)
    monkeypatch.chdir(tmp_path)
    done = script("--dataset=cifar100", f"--data_dir={tmp_path / 'data'}")
    assert done.status == 2 and done.err.count("\n") == 1
    assert done.err.startswith("error: data set 'cifar100' is not in") and "npz:FILE" in done.err
    assert not any(tmp_path.iterdir())


# In processes of their own

EPOCHS, STEPS = 3, 8
DETERMINISTIC = (
    # Few layers, as each of the processes traces them.
    "--net=VGG", "--teacher_net=VGG_student", "--teacher_options=width=4",
    "--student_options=width=4", "--dataset=digits", f"--epochs={EPOCHS}",
    f"--train_images={40 * STEPS}", "--batch_size=40", "--deterministic",
)


def test_a_mistake_in_a_process_of_its_own(tmp_path):
    process = start(SCRIPT, "--teacher=none.keras", cwd=tmp_path, stdout=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: none.keras does not exist; ") and err.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_help_has_every_flag_once_under_its_group(tmp_path):
    out, found = flags_by_group(SCRIPT, tmp_path)
    assert out.startswith(train_w_distill.__doc__.strip().splitlines()[0])
    expected = {
        field.name: field.metadata.get("group")
        for field in dataclasses.fields(distillation.Settings)
    }
    del expected["hyper_parameters"]  # each of which is a flag
    expected.update(dict.fromkeys(distillation.hyper_parameters(), "method"))
    assert found == expected and set(found.values()) == {
        "data", "networks", "method", "training", "run", "export", "quantization"
    }
    assert "--flagfile" in out
    for _, lines in distillation.hyper_parameters().values():
        assert all(re.fullmatch(r"\w+ \(default .+\): .{9,}", line) for line in lines)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run from nothing to its end in a terminal of 80 columns: folder, screen and stderr."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = start(SCRIPT, *DETERMINISTIC, f"--train_dir={folder}", stdout=theirs)
    os.close(theirs)
    screen = b""
    while True:
        try:
            screen += os.read(ours, 1 << 16)
        except OSError:  # how Linux tells that the other side is closed
            break
    os.close(ours)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 0, err
    return SimpleNamespace(folder=folder, screen=screen.decode(), err=err)


@pytest.mark.slow
def test_what_is_printed(finished):
    assert finished.err == ""
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", finished.screen)]
    assert all(len(line) < 80 for line in lines if str(finished.folder) not in line)
    assert "no --teacher given: the teacher is trained first" in finished.screen
    assert "training VGG_student alone in" in finished.screen
    assert "training VGG_student with SSKD_SVD in" in finished.screen
    last = [line for line in lines if line.startswith(f"train {EPOCHS}/{EPOCHS} accuracy")][-1]
    assert re.search(r"val 0\.\d+ +main \S+ +distillation \S+ +\d+ images/s", last)
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert f"student top-1, last epoch   {summary['student_top1_last']:.4g}" in lines


@pytest.mark.slow
def test_what_a_run_leaves(finished):
    written = {
        str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    own = {
        "settings.json", "data.json", "history.csv", "summary.json", "best.npz", "curves.png",
        "student.keras",
        "export/1/saved_model.pb", "export/1/fingerprint.pb", "export/1/variables/variables.index",
        "export/1/variables/variables.data-00000-of-00001",
        *(f"checkpoints/00000{epoch}-000000.npz" for epoch in (EPOCHS - 1, EPOCHS)),
    }
    (events,), (teacher_events,) = (
        finished.folder.glob(f"{part}logs/events*") for part in ("", "teacher/")
    )
    own |= {"export/1/classes.txt"}
    assert written == {
        *own, "singular_vectors.png", *(f"teacher/{name}" for name in own),
        f"logs/{events.name}", f"teacher/logs/{teacher_events.name}",
    }
    for picture in ("curves.png", "singular_vectors.png"):
        pixels = imread(finished.folder / picture)
        assert min(pixels.shape[:2]) > 400 and pixels[..., :3].std() > 0.05


@pytest.mark.slow
def test_history_and_logs_tell_the_same(finished):
    rows = read_history(finished.folder / "history.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert np.allclose([row["learning_rate"] for row in rows], [5e-4, 5e-4, 5e-5])
    for row in rows:
        assert {"main_loss", "distillation_loss", "accuracy", "top5", "val_accuracy"} < set(row)
        assert 0 < row["clip_share"] <= 1 and row["dropped_share"] == 0
        assert row["images_per_second"] > 0
    (file,) = (finished.folder / "logs").iterdir()
    events = EventAccumulator(str(file)).Reload()
    tags = {
        "train/main_loss": "main_loss", "train/distillation_loss": "distillation_loss",
        "train/accuracy": "accuracy", "validation/accuracy": "val_accuracy",
        "run/learning_rate": "learning_rate", "train/clip_share": "clip_share",
        "train/dropped_share": "dropped_share", "run/images_per_second": "images_per_second",
    }
    assert set(tags) <= set(events.Tags()["tensors"])
    for tag, column in tags.items():
        logged = events.Tensors(tag)
        assert [event.step for event in logged] == [1, 2, 3]
        values = [tf.make_ndarray(event.tensor_proto) for event in logged]
        assert np.allclose(values, [row[column] for row in rows], rtol=1e-6)


@pytest.mark.slow
def test_summary_is_what_the_saved_networks_do(finished):
    summary = json.loads((finished.folder / "summary.json").read_text())
    test = dataloader.load("digits").test
    pictures, labels = test.images(range(len(test))).numpy(), test.labels

    def logits(path):
        stated = json.loads((path / "summary.json").read_text())["preprocessing"]
        model = keras.models.load_model(path / "student.keras")
        scaled = (pictures - np.float32(stated["mean"])) / np.float32(stated["deviation"])
        return model, model.predict(scaled, batch_size=len(scaled), verbose=0)

    (student, ours), (_, theirs) = logits(finished.folder), logits(finished.folder / "teacher")
    right = ours.argmax(axis=1) == labels
    best_five = np.argsort(-ours, axis=1)[:, :5]
    best, saved = arrays.load(finished.folder / "best.npz")
    rows = read_history(finished.folder / "history.csv")
    assert {key: summary[key] for key in ("method", "dataset", "seed", "epochs", "best_epoch")} == {
        "method": "SSKD_SVD", "dataset": "digits", "seed": 0, "epochs": EPOCHS,
        "best_epoch": max(
            rows, key=lambda row: (row["val_accuracy"], -row["val_loss"], row["epoch"])
        )["epoch"],
    }
    assert best["epoch"] == summary["best_epoch"]
    # The random state of dropout is saved too, which is no weight.
    kept = [values for values in saved["best"].values() if values.dtype == np.float32]
    for weight, value in zip(student.get_weights(), kept, strict=True):
        np.testing.assert_array_equal(weight, value)
    expected = {
        "student_top1": right.mean(), "student_top1_best": right.mean(),
        "student_top5": (best_five == labels[:, None]).any(axis=1).mean(),
        "teacher_top1": (theirs.argmax(axis=1) == labels).mean(),
        "agreement": (theirs.argmax(axis=1) == ours.argmax(axis=1)).mean(),
        "parameters": sum(weight.size for weight in student.get_weights()),
        "flops": nets.count_flops(student),
        "images_per_second": np.median([row["images_per_second"] for row in rows]),
        "seconds": sum(row["seconds"] for row in rows),
    }
    for key, value in expected.items():
        assert summary[key] == pytest.approx(value, abs=1e-6), key
    assert 0 <= summary["student_top1_last"] <= 1
    stated = json.loads((finished.folder / "settings.json").read_text())
    assert stated.items() <= {**summary["settings"]}.items()
    assert stated["hyper_parameters"]["num_dfv"] == 1 and stated["epochs"] == EPOCHS


FRESH_PROCESS = """
import json, sys
import keras, numpy as np, tensorflow as tf
path, about = sys.argv[1], json.load(open(sys.argv[1] + "/summary.json"))["preprocessing"]
student = keras.models.load_model(path + "/student.keras")
served = tf.saved_model.load(path + "/export/1")
serve = served.signatures["serving_default"]
for count in (1, 7):
    images = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    answer = serve(image=tf.constant(images))
    scaled = (images - np.float32(about["mean"])) / np.float32(about["deviation"])
    own = tf.nn.softmax(student(scaled, training=False)).numpy()
    assert answer["probabilities"].dtype == tf.float32 and own.shape == (count, 10)
    assert np.abs(answer["probabilities"].numpy() - own).max() <= 1e-5
    assert (answer["classes"].numpy() == own.argmax(axis=1)).all()
files = tf.train.list_variables(path + "/export/1/variables/variables")
sizes = [int(np.prod(shape)) for name, shape in files if name.startswith("weights/")]
assert sorted(sizes) == sorted(int(np.prod(each.shape)) for each in student.variables), files
print("as it should be")
"""


@pytest.mark.slow
def test_student_and_export_work_without_this_repository(finished, tmp_path):
    assert_alone(FRESH_PROCESS, finished.folder, tmp_path)


@pytest.mark.slow
def test_a_finished_run_is_left_alone(script, finished):
    before = with_times(finished.folder)
    same = ("--Distillation=sskd-svd", "--net=vgg", f"--train_dir={finished.folder}")
    done = script(*DETERMINISTIC, *same)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"{finished.folder} is finished; --overwrite would start it anew\n")
    assert "student top-1, last epoch" in done.out
    done = script(*DETERMINISTIC, "--epochs=4", "--num_dfv=2", f"--train_dir={finished.folder}")
    assert (done.status, done.out) == (2, "") and done.err.count("\n") == 1
    for part in ("epochs: 3 -> 4", "hyper_parameters.num_dfv: 1 -> 2", "--overwrite"):
        assert part in done.err
    assert "seed" not in done.err
    assert with_times(finished.folder) == before


@pytest.mark.slow
def test_files_of_a_finished_run_are_written_by_the_same_command(script, finished, monkeypatch):
    written = []

    def export_run(opened, folder, min_agreement):
        written.append((opened, folder.path, min_agreement))
        return "the card"

    monkeypatch.setattr(train_w_distill, "export_run", export_run)
    same = ("--Distillation=sskd-svd", "--net=vgg", f"--train_dir={finished.folder}")
    done = script(*DETERMINISTIC, *same, "--export=keras,saved_model", "--min_agreement=0.7")
    assert (done.status, done.err) == (0, "") and done.out.endswith("the card\n")
    ((opened, path, min_agreement),) = written
    assert [form.name for form in opened.formats] == ["keras", "saved_model"]
    assert (path, min_agreement) == (finished.folder, 0.7)
    assert len(opened.images.test) == len(opened.images.labels) == 359
    names = [network.model.name for network in opened.networks.values()]
    assert names == ["VGG_student"] * 2


@pytest.mark.slow
def test_a_student_is_trained_on_in_whole_numbers_and_resumes_exactly(
    script, files, tmp_path, eagerly
):
    """A run whose last epoch of quantisation-aware training was lost does it again, bit for bit."""
    words = [
        *(word.format(files=files) for word in FEW_LAYERS), f"--dataset=npz:{files}/good.npz",
        "--Distillation=FSP", "--epochs=1", "--batch_size=12", "--crop_padding=2",
        "--quantize=int8", "--quantize_epochs=3",
    ]
    whole, again = tmp_path / "whole", tmp_path / "again"
    done = script(*words, f"--train_dir={whole}")
    assert done.status == 0, done.err
    summary = json.loads((whole / "summary.json").read_text())
    own = json.loads((whole / "quantized" / "summary.json").read_text())
    assert summary["quantized_top1"] == own["student_top1"]
    assert f"student top-1, int8         {own['student_top1']:.4g}" in done.out
    assert (own["method"], own["epochs"]) == ("Soft_logits(alpha=0.9)", 3)
    trained = nets.load(whole / "quantized").model
    assert any(isinstance(layer, FakeQuantize) for layer in trained.layers)
    assert not any(isinstance(layer, FakeQuantize) for layer in nets.load(whole).model.layers)

    shutil.copytree(whole, again)
    for part in (again, again / "quantized"):
        (part / "summary.json").unlink()
    (again / "quantized" / "checkpoints" / "000003-000000.npz").unlink()
    done = script(*words, f"--train_dir={again}")
    assert done.status == 0 and "resuming after 2 epochs" in done.out, done.err
    of_it = ("checkpoints/000003-000000.npz", "best.npz")
    assert_same_run(whole / "quantized", again / "quantized", of_it, "student.keras")


@pytest.mark.slow
def test_another_teacher_in_the_same_place_is_noticed(script, files, tmp_path, eagerly):
    teacher = tmp_path / "teacher.keras"
    shutil.copy(files / "teacher.keras", teacher)
    words = [
        *SMALL, f"--teacher={teacher}", f"--dataset=npz:{files}/good.npz", "--batch_size=16",
        "--crop_padding=2", "--epochs=1", "--Distillation=Soft_logits",
        f"--train_dir={tmp_path}/run",
    ]
    done = script(*words)
    assert done.status == 0, done.err
    network("MobileNet_teacher").save(teacher)  # with weights of another seed
    done = script(*words)
    assert (done.status, done.out) == (2, "") and done.err.count("\n") == 1
    assert "the networks have changed since the run in" in done.err
    assert "began: teacher: " in done.err
    shutil.copy(files / "teacher.keras", teacher)
    assert "is finished" in script(*words).out


@pytest.mark.slow
def test_overwriting(script, finished, files, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    (folder / "notes.txt").write_text("mine")
    done = script(
        *SMALL, f"--dataset=npz:{files}/good.npz", "--batch_size=16", "--crop_padding=2",
        "--epochs=1", "--Distillation=None", f"--train_dir={folder}", "--overwrite",
    )
    assert (done.status, done.err) == (0, "")
    assert "training MobileNet_student alone in" in done.out
    assert len(read_history(folder / "history.csv")) == 1
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["000001-000000.npz"]
    assert not (folder / "singular_vectors.png").exists()
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_killed_and_gone_on_with_is_never_killed(finished, tmp_path):
    folder = tmp_path / "run"

    def begin():
        # A checkpoint after each step.
        return start(
            SCRIPT,
            *DETERMINISTIC, f"--train_dir={folder}", "--checkpoint_minutes=1e-9",
            stdout=subprocess.DEVNULL, python=warm_python(),
        )

    place = "teacher/checkpoints/000001-00000[2-7].npz"
    assert stop_at(begin(), folder, place, signal.SIGKILL) == (-signal.SIGKILL, "")
    place = "checkpoints/000001-000000.npz"
    status, err = stop_at(begin(), folder, place, signal.SIGTERM)
    assert status == 143 and err.startswith("interrupted (SIGTERM) after") and err.count("\n") == 1
    assert not (folder / "summary.json").exists()
    _, last = sorted((folder / "checkpoints").glob("*.npz"))
    last.write_bytes(last.read_bytes()[:-1000])
    process = begin()
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 0 and err.count("\n") == 1
    assert err.startswith(f"warning: {folder}/checkpoints: {last.name} is damaged")

    of_it = (f"checkpoints/{EPOCHS:06d}-000000.npz", "best.npz")
    for part in (".", "teacher"):
        assert_same_run(finished.folder / part, folder / part, of_it, "student.keras")


# Presets

PAPERS = {
    "dataset": "cifar100", "epochs": 200, "batch_size": 128, "learning_rate": 1e-2,
    "weight_decay": 1e-4, "optimizer": "sgd", "momentum": 0.9, "schedule": "step", "flip": True,
    "rotation": 15.0, "crop_padding": 4, "validation_fraction": 0, "Distillation": "SSKD_SVD",
    "mixed_precision": False, "main_loss": "cross_entropy",
}
FIVE_TAPS = {
    "net": "VGG", "teacher_taps": ("pool1", "pool2", "pool3", "pool4", "fc2"),
    "student_taps": ("pool1", "pool2", "pool3", "pool4", "fc1"),
}
PRESETS = {
    "VGG": {"net": "VGG"}, "VGG_stride": {"net": "VGG_stride"}, "MobileNet": {"net": "MobileNet"},
    "ResNeXt": {"net": "ResNeXt"}, "VGG_five_taps": FIVE_TAPS,
}


def test_there_is_no_further_preset():
    of_pretraining = {"ESSL"}
    assert {file.stem for file in (ROOT / "presets").iterdir()} == set(PRESETS) | of_pretraining


@pytest.mark.parametrize("name", PRESETS)
def test_presets(script, tmp_path, name):
    file = ROOT / "presets" / f"{name}.flags"
    assert file.read_text().startswith("# ")
    num_dfv = 4 if name == "VGG_five_taps" else 1
    with own_flags(distillation.define):
        flags.FLAGS(["train_w_distill.py", f"--flagfile={file}"])
        given = distillation.given_settings().spelled()
    assert create_method(given).num_dfv == num_dfv
    settings = values(given)
    assert settings.items() >= {**PAPERS, **PRESETS[name]}.items()
    done = script(
        f"--flagfile={file}", "--dataset=digits", "--dry_run", f"--train_dir={tmp_path / 'run'}",
        "--images_per_second=100",
    )
    assert (done.status, done.err) == (0, "")
    teacher, student = nets.pair(settings["net"])
    for part in (f"{tmp_path / 'run'} (new)", f"{teacher}, to be trained in", student,
                 "digits: 1438 training", f"num_dfv={num_dfv}", "at 100 images/s (as given)"):
        assert part in " ".join(done.out.split())
    assert not any(tmp_path.iterdir())


# Runs through: each a tiny epoch


@pytest.mark.parametrize(
    ("networks", "arguments"),
    [
        (FEW_LAYERS, ["--labelled_per_class=2", "--optimizer=adam", "--schedule=cosine"]),
        (
            FEW_LAYERS,
            ["--main_loss=none", "--Distillation=SSKD_SVD(num_dfv=2)", "--validation_fraction=0.2"],
        ),
        (
            FEW_LAYERS,
            ["--main_loss=none", "--Distillation=Soft_logits", "--validation_fraction=0"],
        ),
        (
            FEW_LAYERS,
            ["--Distillation=DKD", "--mixup=0.2", "--cutmix=1", "--random_resized_crop=0.3",
             "--color_jitter=0.2", "--randaugment=1,5", "--label_smoothing=0.1",
             "--labelled_per_class=4"],
        ),
        (WITH_TEACHER, ["--mixed_precision", "--Distillation=fsp", "--validation_fraction=0"]),
        pytest.param(
            FEW_LAYERS, ["--jit_compile", "--Distillation=Soft_logits", "--schedule=constant"],
            marks=pytest.mark.slow,
        ),
        (
            ("--student_model={files}/few_layers_student.keras",),
            ["--Distillation=Soft_logits", "--teacher={files}/own.keras", "--temperature=2"],
        ),
        (
            SMALL,
            ["--dataset=npz:{files}/two.npz", "--teacher={files}/two.keras",
             "--Distillation=Soft_logits"],
        ),
        (
            SMALL,
            ["--Distillation=Soft_logits", "--net=VGG", "--teacher_epochs=2",
             "--teacher_net=MobileNet_teacher", "--student_net=mobilenet-student",
             "--cache_teacher", "--cache_dir={files}/cache"],
        ),
    ],
    ids=lambda words: " ".join(words[:2]) if isinstance(words, list) else words[-1],
)
def test_runs_through(script, files, tmp_path, monkeypatch, request, networks, arguments):
    without_pictures(monkeypatch)
    if "--jit_compile" not in arguments:
        request.getfixturevalue("eagerly")
    folder = tmp_path / "run"
    given = (*networks, f"--dataset=npz:{files}/good.npz", *arguments)
    done = script(
        *(argument.replace("{files}", str(files)) for argument in given), "--batch_size=16",
        "--crop_padding=2", "--epochs=1", f"--train_dir={folder}",
    )
    assert (done.status, done.err) == (0, "")
    (row,) = read_history(folder / "history.csv")
    assert all(np.isfinite(value) for key, value in row.items() if key != "stage")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["teacher_top1"] is not None and summary["agreement"] is not None
    judged = not any("none" in word or word.endswith("fraction=0") for word in arguments)
    assert (summary["best_epoch"] is None) == (not judged)
    classifies = "--main_loss=none" not in arguments or "--Distillation=Soft_logits" in arguments
    assert ("student top-1, last epoch" in done.out) == classifies
    assert ("classification is not trained" in done.out) == (not classifies)
    assert f"(teacher: {summary['teacher_parameters']:,})" in done.out


def test_a_run_from_python_is_that_of_the_command_line(script, files, tmp_path):
    taps = ("tap1", "tap2", "tap3")
    done = script(
        *(word.format(files=files) for word in FEW_LAYERS), f"--dataset=npz:{files}/good.npz",
        "--batch_size=16", "--crop_padding=2", "--epochs=2", "--Distillation=AT", "--weight=10",
        f"--train_dir={tmp_path / 'command'}",
    )
    assert (done.status, done.err) == (0, "")
    summary = train_w_distill.train(Settings(
        Distillation="at", hyper_parameters={"weight": 10}, dataset=f"npz:{files}/good.npz",
        batch_size=16, crop_padding=2, epochs=2, train_dir=str(tmp_path / "python"),
        teacher=f"{files}/few_layers_teacher.keras", teacher_taps=taps,
        student_model=f"{files}/few_layers_student.keras", student_taps=taps,
    ))
    command, python = (tmp_path / name for name in ("command", "python"))
    for name in ("settings.json", ".written"):
        assert (command / name).read_bytes() == (python / name).read_bytes(), name
    assert set(json.loads((command / "summary.json").read_text())) == set(summary)
    assert summary["settings"]["hyper_parameters"] == {"weight": 10.0}
    for one, other in zip(
        *(keras.models.load_model(folder / "student.keras").get_weights()
          for folder in (command, python)), strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    again = script(f"--train_dir={python}", *done.words[:-1])
    assert again.status == 0 and "is finished" in again.out


def of_several_outputs(as_dict):
    """Of a model: its logits, or probabilities in a dict, beside its embedding."""

    def made(model):
        embedding, logits = model.layers[-2].output, model.output
        if as_dict:
            outputs = {"embedding": embedding, "logits": keras.layers.Softmax()(logits)}
        else:
            outputs = [logits, embedding]
        return keras.Model(model.input, outputs, name=model.name)

    return made


def test_what_cannot_train_the_teacher_is_refused_before_anything_is_written(
    script, files, tmp_path
):
    done = script(
        *SMALL, f"--dataset=npz:{files}/good.npz", "--batch_size=16", "--crop_padding=2",
        "--epochs=40", "--schedule=cosine", "--warmup_epochs=39.9", "--teacher_epochs=1",
        f"--train_dir={tmp_path / 'run'}",
    )
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "--warmup_epochs is 1; expected less than --epochs, 1" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["any size", "several outputs"])
def test_models_of_ones_own_run_through(files, tmp_path, eagerly, monkeypatch, kind):
    without_pictures(monkeypatch)
    shape = (None, None, 3) if kind == "any size" else (8, 8, 3)
    teacher, student = few_layers("t", 2, shape=shape), few_layers("s", 1, shape=shape)
    logits = keras.Model(teacher.input, teacher.output)
    if kind == "several outputs":
        teacher = of_several_outputs(as_dict=True)(teacher)
        student = of_several_outputs(as_dict=False)(student)
    teacher.save(tmp_path / "teacher.keras")
    student.save(tmp_path / "student.keras")
    summary = train_w_distill.train(Settings(
        Distillation="Soft_logits", dataset=f"npz:{files}/good.npz", batch_size=16, epochs=1,
        teacher_model=str(tmp_path / "teacher.keras"), teacher_preprocessing="none",
        student_model=str(tmp_path / "student.keras"), crop_padding=2,
        train_dir=str(tmp_path / "run"),
    ))
    with np.load(files / "good.npz") as data:
        right = np.argmax(logits(data["x_test"].astype("float32")), axis=1) == data["y_test"]
    assert summary["teacher_top1"] == pytest.approx(right.mean())
    kept = keras.models.load_model(tmp_path / "run" / "student.keras")
    assert kept.output.shape == (None, CLASSES)
    # As of a network of fixed size.
    assert summary["flops"] == nets.count_flops(few_layers("fixed", 1))
    assert summary["teacher_flops"] == nets.count_flops(few_layers("fixed", 2))


def test_a_dry_run_tells_steps_and_time_and_writes_nothing(script, files, tmp_path):
    done = script(
        *(word.format(files=files) for word in FEW_LAYERS), f"--dataset=npz:{files}/good.npz",
        "--batch_size=16", "--crop_padding=2", "--epochs=7", "--Distillation=AT", "--dry_run",
        f"--train_dir={tmp_path / 'run'}",
    )
    assert (done.status, done.err) == (0, "")
    assert re.search(r"^steps +21$", done.out, re.MULTILINE)  # 3 of an epoch of 36 images
    found = re.search(
        r" time about (\d+) s, at (\d+) images/s \(measured on 3 steps\); compilation and "
        r"validation are not included$", " ".join(done.out.split()),
    )
    assert found and int(found[1]) == pytest.approx(21 * 16 / int(found[2]), abs=1)
    assert "7 epochs, batches of 16, adam at" in " ".join(done.out.split())
    paths = (str(tmp_path), str(files))  # which are not broken
    lines = done.out.splitlines()
    assert all(len(line) <= 80 for line in lines if not any(path in line for path in paths))
    assert not (tmp_path / "run").exists()


def test_the_teachers_run_has_nothing_of_the_students(tmp_path):
    settings = Settings(
        Distillation="AT", hyper_parameters={"weight": 3}, main_loss="none", teacher_epochs=4,
        teacher_net="ResNet_teacher", student_net="ResNet_student", epochs=9,
        teacher_taps=("block1",), student_taps=("block2",), teacher_preprocessing="tf",
    )
    alone = settings.of_teacher(tmp_path)
    assert (alone.Distillation, alone.hyper_parameters, alone.main_loss, alone.epochs) == (
        "None", {}, "cross_entropy", 4
    )
    assert alone.student_name() == "ResNet_teacher" and alone.teacher_net is None
    assert (alone.student_taps, alone.student_preprocessing) == (("block1",), "tf")
    assert alone.folder() == tmp_path and alone.teacher_epochs is None


# Each kind of method


def without_pictures(monkeypatch):
    """Do not draw any, which takes long: `test_what_a_run_leaves` looks at them."""
    for picture in (curves, vector_maps):
        monkeypatch.setattr(picture, "draw", lambda *_: None)


@pytest.fixture
def killed(monkeypatch):
    """Stages to folders: what a run that is killed after so many steps of a stage's first epoch
    leaves, copied from a run that goes on, as soon as it is saved there."""
    copies, save = {}, Checkpoints.save

    def save_and_copy(self, progress, groups):
        path = save(self, progress, groups)
        stage = progress["stage"]
        if progress["step"] == STEPS_OF_THE_KILLED and stage not in copies:
            whole = path.parents[1]
            copies[stage] = whole.with_name(f"{whole.name} killed in {stage}")
            shutil.copytree(whole, copies[stage])
        return path

    monkeypatch.setattr(Checkpoints, "save", save_and_copy)
    return copies


def what_is_declared(name):
    """Of a method, all that a run has to do something about: its stages, a memory of the training
    images, and whether it deploys a model of its own and trains the teacher."""
    loss = built_loss(name, samples=SAMPLES)
    stages = [(each.trains, each.main_weight > 0, each.new_optimizer) for each in loss.stages]
    remembers = any(SAMPLES in v.shape for layer in loss.layers for v in layer.variables)
    return tuple(stages), remembers, bool(loss.deploy), loss.method.trains_teacher


def methods_of_each_kind():
    """For each kind of method, by what it declares, the first name; two of the kinds as a sum. That
    any other method's run ends and resumes is shown for the method alone, in its own test file."""
    kinds = {}
    for name in METHODS.names():
        if distillers.get(name).needs_teacher:
            kinds.setdefault(what_is_declared(name), name)
    unlabelled_first = next(name for kind, name in kinds.items() if not kind[0][0][1])
    remembers = next(name for kind, name in kinds.items() if kind[1])
    alone = [name for name in kinds.values() if name not in (unlabelled_first, remembers)]
    return [*alone, f"{unlabelled_first}+{remembers}"]


@pytest.mark.slow
def test_each_kind_of_method_runs_through_its_stages(
    script, files, tmp_path, monkeypatch, killed, eagerly
):
    """Two epochs of digits, at once and killed in the midst of each stage; the exported model
    alone is what is kept."""
    without_pictures(monkeypatch)
    for name in methods_of_each_kind():
        killed.clear()
        check_a_run(script, files, tmp_path / name, killed, name)


def check_a_run(script, files, folder, killed, name):
    def train(folder):
        done = script(
            *(argument.format(files=files) for argument in OF_DIGITS), "--batch_size=16",
            "--crop_padding=2", "--epochs=2", f"--Distillation={name}", f"--train_dir={folder}",
            "--checkpoint_minutes=1e-9",
        )
        assert (done.status, done.err) == (0, "")
        _, groups = arrays.load(folder / "checkpoints/000002-000000.npz")
        weights = np.concatenate([np.ravel(values) for values in groups["model"].values()])
        rows = list(map(without_times, read_history(folder / "history.csv")))
        return [row.pop("stage") for row in rows], rows, weights

    of_epochs, rows, weights = train(folder)
    stages = list(killed)
    assert len(stages) in (1, 2), name
    assert of_epochs == (stages if len(stages) == 2 else stages * 2)
    assert all(np.isfinite(value) for row in rows for value in row.values())
    for copy in killed.values():
        assert not (copy / "summary.json").exists()
        same_stages, rows_gone_on, weights_gone_on = train(copy)
        assert same_stages == of_epochs
        for gone_on, row in zip(rows_gone_on, rows, strict=True):
            assert gone_on == pytest.approx(row, rel=1e-4, abs=1e-6)
        assert np.linalg.norm(weights_gone_on - weights) <= 1e-6 * np.linalg.norm(weights)

    kept = keras.models.load_model(folder / "student.keras")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["parameters"] == kept.count_params()
    student = few_layers("student", 1, DIGITS).count_params()
    deploys = any(built_loss(each, samples=SAMPLES).deploy for each in name.split("+"))
    assert (kept.count_params() != student) == deploys
    served = tf.saved_model.load(str(folder / "export/1")).signatures["serving_default"]
    grey = tf.fill([3, 8, 8, 3], tf.constant(7, tf.uint8))
    assert served(image=grey)["probabilities"].shape == (3, DIGITS)


@pytest.mark.slow
def test_simkd_deploys_the_classifier_of_the_teacher_that_was_trained_for_it(
    script, files, tmp_path, monkeypatch, eagerly
):
    """Made before the teacher was trained, it would have the initial weights."""
    without_pictures(monkeypatch)
    done = script(
        *SMALL, "--teacher_net=MobileNet_student", f"--dataset=npz:{files}/good.npz",
        "--batch_size=16", "--crop_padding=2",
        "--epochs=1", f"--train_dir={tmp_path / 'run'}", "--Distillation=SimKD",
    )
    assert (done.status, done.err) == (0, "")
    teacher = keras.models.load_model(tmp_path / "run/teacher/student.keras")
    deployed = keras.models.load_model(tmp_path / "run/student.keras")
    theirs = teacher.get_layer("logits").get_weights()[0]
    assert any(
        weight.shape == theirs.shape and np.array_equal(weight, theirs)
        for weight in deployed.get_weights()
    )


# Advice


@pytest.mark.parametrize(
    ("student", "taught", "quantized", "advice"),
    [
        (0.9, 0.85, None, None),
        (0.9, None, None, None),  # there is no teacher, or one of other classes
        (0.9, 0.79, None, "the student (0.9000) is much better than its teacher (0.7900), which"),
        (0.9, 0.81, None, None),
        (0.9, 0.95, 0.87, "the quantised student is much worse than the student: try a lower"),
        (0.9, 0.95, 0.89, None),
        (0.9, 0.95, 0.91, None),
    ],
)
def test_advice_after_a_run(tmp_path, monkeypatch, capsys, student, taught, quantized, advice):
    """Where a figure is so far from another that something is wrong; the rest of a run is left
    out."""
    given = {"student_top1": student, "teacher_top1": taught}
    setup = SimpleNamespace(
        data=SimpleNamespace(facts=dict), teacher_is_trained=True, teacher=None,
        distiller=SimpleNamespace(student=SimpleNamespace(name="net")), team=workers.ALONE,
        settings=SimpleNamespace(quantize="none" if quantized is None else "int8"),
    )
    for name, result in {
        "score_teacher": [], "notes": [], "fill_cache": setup, "fit": {}, "score": {},
        "summarize": dict(given), "train_quantized": quantized,
    }.items():
        monkeypatch.setattr(train_w_distill, name, lambda *_, result=result: result)
    with RunFolder(tmp_path / "run") as folder:
        folder.open({})
        train_w_distill.complete(setup, folder)
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"training net alone in {tmp_path / 'run'}"
    assert [advice and line[: len(advice)] for line in others] == ([advice] if advice else [])
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    expected = given if quantized is None else {**given, "quantized_top1": quantized}
    assert {name: summary[name] for name in expected} == expected


@pytest.mark.parametrize(("top1", "near"), [(0.14, True), (0.16, False)])
def test_a_teacher_near_chance_is_told(tmp_path, monkeypatch, capsys, top1, near):
    """Of ten classes; the teacher's training is left out."""
    setup = SimpleNamespace(
        data=SimpleNamespace(classes=10), strategy=None, team=workers.ALONE, settings=None,
    )
    alone = SimpleNamespace(network_files=dict, overwrite=False, fine_tunes=lambda: False)
    made = []
    for name, result in {
        "settings_of_teacher": alone, "create_method": None, "determining_settings": {},
    }.items():
        monkeypatch.setattr(train_w_distill, name, lambda *_, result=result: result)
    monkeypatch.setattr(train_w_distill, "make_setup", lambda *given: made.append(given) or "made")
    monkeypatch.setattr(
        train_w_distill, "complete", lambda _, own: own.finish({"student_top1": top1})
    )
    with RunFolder(tmp_path / "run") as folder:
        folder.open({})
        assert train_w_distill.train_teacher(setup, folder) == "made"
    out = capsys.readouterr().out.splitlines()
    place = tmp_path / "run/teacher"
    assert out[:2] == [
        "no --teacher given: the teacher is trained first", f"teacher: {place}, top-1 {top1:.4f}"
    ]
    told = "chance is 0.1000: there is little to learn from this teacher"
    assert out[2:] == ([told] if near else [])
    assert made[-1][3] == str(place)


@pytest.mark.parametrize("name", ["help", "HELP"])
def test_methods_are_listed(script, name):
    done = script(f"--Distillation={name}")
    assert done.status == 0
    for method in METHODS.names():
        assert f"\n{method}: " in "\n" + done.out


def test_layers_are_listed(script, files, tmp_path):
    """A network of Keras' applications and a person's own file, by the names that taps take."""
    done = script(
        "--list_layers", f"--dataset=npz:{files}/good.npz", "--image_size=32",
        "--teacher_model=keras.applications:mobilenetv2", f"--student_model={files}/own.keras",
        "--batch_size=16", f"--train_dir={tmp_path / 'run'}",
    )
    assert (done.status, done.err) == (0, "")
    for expected in ("block_3_expand_relu", "student: own", "one", "6x6x8"):
        assert expected in done.out
    assert not (tmp_path / "run").exists()


def test_layers_are_listed_from_python_and_without_a_teacher(files, tmp_path, capsys):
    given = {
        "dataset": f"npz:{files}/good.npz", "list_layers": True, "Distillation": "None",
        "student_model": f"{files}/few_layers_student.keras", "train_dir": str(tmp_path / "run"),
    }
    assert train_w_distill.train(Settings(**given)) == {}
    said = capsys.readouterr().out
    assert said.startswith("student: student\n") and "tap3" in said and "teacher" not in said
    named = Settings(**given, teacher_model=f"{files}/few_layers_teacher.keras")
    train_w_distill.train(named)
    assert capsys.readouterr().out.startswith("teacher: teacher\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_layers_are_listed_whatever_has_run(script, finished):
    done = script(*SMALL, "--list_layers", "--num_dfv=2", f"--train_dir={finished.folder}")
    assert (done.status, done.err) == (0, "")
    assert "student: MobileNet_student" in done.out
    assert re.search(r"\n *stage4 .* tap *\n", done.out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher_model=keras.applications:MobilNetV2"], "did you mean 'MobileNetV2'"),
        (
            ["--student_model={files}/none.keras"],
            "--student_model: {files}/none.keras does not exist; expected a model in a file",
        ),
        (["--teacher_model=none.keras"], "keras.applications:NAME or keras_hub:PRESET_OR_FOLDER"),
        (["--student_model={files}/seven.keras"], "expected (None, 4)"),
        (["--student_model={files}/grey.keras"], "the student takes images of 1 channels"),
        (["--student_init=somewhere"], "expected tte:RUN"),
        (["--student_init={files}"], "expected tte:RUN, such as tte:{files}"),
        (["--student_init=tte:{files}/run"], "contains no encoder.keras"),
        (["--teacher=tte:{files}/run"], "contains no encoder.keras"),
        (["--Distillation=FitNet", "--epochs=1"], "1 epochs, but the method has 2 stages"),
        (["--Distillation=SSKD_SVD+FSPP"], "did you mean 'FSP'"),
        (["--teacher_net=VGG_teacher", "--teacher_model={files}/own.keras"], "give only one"),
        (
            ["--teacher={files}/teacher.keras", "--teacher_model={files}/own.keras"],
            "both give a trained teacher",
        ),
    ],
)
def test_mistakes_with_models_of_ones_own(script, files, tmp_path, arguments, message):
    folder = tmp_path / "run"
    no_options = [
        f"--{role}_options=" for role in ("teacher", "student")
        if any(word.startswith(f"--{role}_model") for word in arguments)
    ]
    done = script(
        *SMALL, *no_options, f"--dataset=npz:{files}/good.npz", "--batch_size=16",
        "--crop_padding=2", f"--train_dir={folder}",
        *(word.replace("{files}", str(files)) for word in arguments),
    )
    assert done.status == 2
    assert done.err.startswith("error: ")
    assert message.replace("{files}", str(files)) in done.err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("labelled", "batch_size", "method", "main_loss", "share"),
    [(2, 4, "SSKD_SVD", "cross_entropy", 0.81), (30, 4, "SSKD_SVD", "cross_entropy", None),
     (2, 4, "SSKD_SVD", "none", None), (2, 4, "Soft_logits", "cross_entropy", None),
     # Clipped against what needs no labels.
     (2, 4, "SSKD_SVD+Soft_logits(alpha=1)", "cross_entropy", None)],
)
def test_batches_without_labels_are_warned_of(labelled, batch_size, method, main_loss, share):
    labels = np.where(np.arange(40) < labelled, 1, -1)
    networks = [models.network(1, "student"), models.network(2, "teacher")]
    student_outputs, teacher_outputs = map(models.outputs, networks)
    distiller = distillers.Distiller(
        networks[0], distillers.create(method), networks[1], student_outputs=student_outputs,
        teacher_outputs=teacher_outputs, main_loss=main_loss,
    )
    setup = SimpleNamespace(
        settings=Settings(Distillation=method, batch_size=batch_size, main_loss=main_loss),
        data=SimpleNamespace(train=SimpleNamespace(labels=labels)),
        distiller=distiller,
    )
    found = train_w_distill.describe_scarce_labels(setup)
    expected = [] if share is None else [f"warning: {100 * (1 - labelled / 40) ** 4:.0f} %"]
    assert [note[: len(text)] for note, text in zip(found, expected, strict=True)] == expected


def test_last_and_best_epoch_are_scored_by_their_own_weights(monkeypatch):
    weights = ["last"]
    figures = {"last": {"accuracy": 0.4, "top5": 0.7}, "best": {"accuracy": 0.6, "top5": 0.9}}
    setup = SimpleNamespace(
        data=SimpleNamespace(test="test"),
        distiller=SimpleNamespace(
            evaluate=lambda split, **_: figures[weights[0]], deployed=SimpleNamespace(variables=[])
        ),
    )
    monkeypatch.setattr(train_w_distill, "evaluation", lambda _, split: (split, 1))

    def load_best(*_):
        weights[0] = "best"
        return {"epoch": 2}

    monkeypatch.setattr(train_w_distill.training, "load_best", load_best)
    assert train_w_distill.score(setup, None) == {
        "student_top1": 0.6, "student_top1_last": 0.4, "student_top1_best": 0.6, "best_epoch": 2,
        "student_top5": 0.9, "student_top5_last": 0.7,
    }
