"""Every command and every example in the README does what it says, trainings as dry runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from tests.commands import run_script

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
TESTS = "python -m pytest -n 2 --dist loadfile"
LEFT_TO_CI = ("pip install -r requirements.txt", "pip install -r requirements-dev.txt", TESTS)
NEEDS_A_CONTAINER = ("docker", "curl")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    return [part.strip() for line in lines for part in line.split("&&")]


def trainings() -> list[str]:
    return [command for command in commands() if command.startswith("python ")
            and not command.startswith("python -m")]


def test_every_command_is_of_a_kind_that_is_tested():
    others = set(commands()) - set(trainings()) - set(LEFT_TO_CI)
    assert all(command.split()[0] in NEEDS_A_CONTAINER for command in others), others


def test_installing_and_testing_are_what_ci_does():
    ci = (ROOT / ".ci/run").read_text()
    assert "requirements-dev.txt" in ci and TESTS in ci.splitlines() and TESTS in commands()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the commands take as given: a student, images, and the runs of the
    commands before them, which are made by these commands, in small."""
    folder = tmp_path_factory.mktemp("place")
    image = keras.Input((96, 96, 3))
    maps = image
    for number in (1, 2, 3):
        maps = keras.layers.Conv2D(8, 3, strides=2, name=f"conv{number}")(maps)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    keras.Model(image, keras.layers.Dense(2, "softmax")(pooled)).save(folder / "student.keras")
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind in ("cat", "dog"):
            (folder / "images" / part / kind).mkdir(parents=True)
            for number in range(80 if part == "train" else 4):
                pixels = random.integers(0, 256, (96, 96, 3), np.uint8)
                Image.fromarray(pixels).save(folder / "images" / part / kind / f"{number}.jpg")
    small = {
        "pretrain_tte.py": [
            "--epochs=1", "--train_images=64", "--batch_size=32", "--targets=", "--tasks=rotation",
            "--regularizer=none", "--ensemble=none", "--validation_fraction=0",
        ],
        "train_w_distill.py": ["--epochs=1", "--train_images=64", "--validation_fraction=0"],
    }
    needed = {"runs/encoder", "runs/small"}
    chain = [words for words in map(shlex.split, trainings()) if needed & set(words)]
    assert [words[1] for words in chain] == list(small)
    for words in chain:
        command = [sys.executable, str(ROOT / words[1]), *words[2:], *small[words[1]]]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    return folder


def listing(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("command", trainings())
def test_training_command_as_a_dry_run(command, place, monkeypatch, capsys):
    words = shlex.split(command)[1:]
    words = [str(ROOT / word) if (ROOT / word).is_file() else word for word in words]
    # The presets are for CIFAR-100, which would have to be downloaded.
    data = ["--dataset", "digits"] if "--flagfile" in words else []
    # What was made for the commands after them is a run of other settings.
    again = ["--overwrite"] if "--train_dir" in words else []
    before = listing(place)
    monkeypatch.chdir(place)
    assert run_script(monkeypatch, capsys, *words, *data, *again, "--dry_run").strip()
    assert listing(place) == before, "a dry run writes nothing"


@pytest.mark.parametrize("example", blocks("python"))
def test_example_of_the_library(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "distilled.keras").exists()


def test_what_it_names_exists():
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:op_util|distillers|benchmarks)/\w+\.py)`", README):
        assert (ROOT / path).exists(), path


def test_flags_it_names_exist(monkeypatch, capsys):
    known = {"help", "flagfile", "logdir"}
    for script in ("train_w_distill", "compare", "pretrain_tte", "evaluate"):
        help_text = run_script(monkeypatch, capsys, ROOT / f"{script}.py", "--help")
        known |= set(re.findall(r"^  --(\w+)", help_text, flags=re.MULTILINE))
    named = set(re.findall(r"--(\w+)", README.replace(TESTS, "")))
    assert named <= known, named - known
