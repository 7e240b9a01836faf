"""Every command and every example in the README does what it says, trainings as dry runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
LEFT_TO_CI = ("pip install -r requirements.txt", "pip install -r requirements-dev.txt")
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
    others = set(commands()) - set(trainings()) - set(LEFT_TO_CI) - {"python -m pytest"}
    assert all(command.split()[0] in NEEDS_A_CONTAINER for command in others), others


def test_installing_and_testing_are_what_ci_does():
    ci = (ROOT / ".ci/run").read_text()
    assert "requirements-dev.txt" in ci and "-m pytest" in ci


@pytest.mark.slow
@pytest.mark.parametrize("command", trainings())
def test_training_command_as_a_dry_run(command, tmp_path):
    words = shlex.split(command)[1:]
    words = [str(ROOT / word) if (ROOT / word).is_file() else word for word in words]
    # The presets are for CIFAR-100, which would have to be downloaded.
    data = ["--dataset", "digits"] if "--flagfile" in words else []
    run = subprocess.run(
        [sys.executable, *words, *data, "--dry_run"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"


@pytest.mark.parametrize("example", blocks("python"))
def test_example_of_the_library(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "student.keras").exists()


def test_what_it_names_exists():
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:op_util|distillers|benchmarks)/\w+\.py)`", README):
        assert (ROOT / path).exists(), path


def test_flags_it_names_exist():
    sys.path.insert(0, str(ROOT))
    help_text = subprocess.run(
        [sys.executable, str(ROOT / "train_w_distill.py"), "--help"], capture_output=True, text=True
    ).stdout
    known = set(re.findall(r"^  --(\w+)", help_text, flags=re.MULTILINE))
    named = set(re.findall(r"--(\w+)", README)) - {"seeds", "help", "flagfile"}
    assert named <= known, named - known
