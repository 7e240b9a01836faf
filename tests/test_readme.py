"""Every command and every example in README, CONTRIBUTING and the guides does what it says,
trainings as dry runs."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import distillers
import evaluate
import train_w_distill
from tests.commands import run_script
from tests.warm_python import warm_python

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = sorted((ROOT / "docs" / "results").glob("*.md"))
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = ("train_w_distill.py", "compare.py", "pretrain_tte.py", "evaluate.py", "export.py")
TESTS = "python -m pytest -n 2 --dist loadfile"
LEFT_TO_CI = (
    "pip install -r requirements.txt", "pip install -r requirements-dev.txt", TESTS, "ruff check .",
    "pip install -r docs/requirements.txt", "mkdocs build --strict",
    "pip install -r requirements-export.txt",
    "pip install -r requirements-slurm.txt",
)
NEEDS_WHAT_IS_NOT_HERE = ("docker", "curl", "mkdocs serve")
TESTED_ELSEWHERE = ("python -m tests.fuzz.campaign",)  # in tests/fuzz
# Stand in for the programs, and say what they were called with: how many words, and these.
RECORDERS = "\n".join(
    f'{program}() {{ printf "%s\\0" "$(($# + 1))" {program} "$@"; }}'
    for program in ("python", "pip", "ruff", "mkdocs", "docker", "curl")
)


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(), flags=re.DOTALL)


def commands(document: Path) -> list[tuple[str, ...]]:
    """What bash would run, in words: variables, loops and long lines are as it understands them."""
    script = "\n".join(["set -eu", "PATH=", RECORDERS, *blocks(document, "bash")])
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, f"{document}: {run.stderr}"
    words = iter(run.stdout.split("\0")[:-1])
    return [tuple(next(words) for _ in range(int(count))) for count in words]


COMMANDS = {document: commands(document) for document in DOCUMENTS}


def of_scripts(documents: Iterable[Path]) -> list[tuple[str, ...]]:
    """The commands of our scripts, each once."""
    found = (command for document in documents for command in COMMANDS[document])
    return list(dict.fromkeys(c for c in found if c[0] == "python" and c[1] in SCRIPTS))


def benchmarks() -> list[tuple[str, ...]]:
    found = (command for document in DOCUMENTS for command in COMMANDS[document])
    return [c for c in found if c[0] == "python" and c[1].startswith("benchmarks/")]


THROUGHPUT = "--images_per_second=100"  # so that a dry run does not measure it
TRAININGS = of_scripts(document for document in DOCUMENTS if document not in RESULTS)
# Runs of hours, on data and with teachers that are not here.
LONG_RUNS = [command for command in of_scripts(RESULTS) if command not in TRAININGS]


def test_commands_are_read_as_bash_reads_them(tmp_path):
    document = tmp_path / "page.md"
    document.write_text(
        '```bash\ncommon="--a 1"\nfor x in b c; do\n  python s.py $common \\\n  --n "$x y"\ndone\n'
        "pip install z && ruff check\n```\n\n```\npython not_this\n```\n"
    )
    assert commands(document) == [
        ("python", "s.py", "--a", "1", "--n", "b y"), ("python", "s.py", "--a", "1", "--n", "c y"),
        ("pip", "install", "z"), ("ruff", "check"),
    ]


def test_every_command_is_of_a_kind_that_is_tested():
    found = {command for document in DOCUMENTS for command in COMMANDS[document]}
    others = found - {*TRAININGS, *LONG_RUNS, *benchmarks()}
    others = {" ".join(command) for command in others} - set(LEFT_TO_CI)
    left = (*NEEDS_WHAT_IS_NOT_HERE, *TESTED_ELSEWHERE)
    assert all(command.startswith(left) for command in others), others


def test_installing_and_testing_are_what_ci_does():
    ci = (ROOT / ".ci/run").read_text()
    written = {" ".join(command) for document in DOCUMENTS for command in COMMANDS[document]}
    assert set(LEFT_TO_CI) <= written
    for part in (
        "pip install -r requirements-dev.txt", TESTS, "ruff check .",
        "pip install -r docs/requirements.txt", "mkdocs build --strict",
    ):
        assert part.removeprefix("pip ") in ci, part


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
    for name in ("student", "teacher"):
        model = keras.Model(image, keras.layers.Dense(2, "softmax")(pooled))
        model.save(folder / f"{name}.keras")
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind in ("cat", "dog"):
            (folder / "images" / part / kind).mkdir(parents=True)
            for number in range(80 if part == "train" else 4):
                pixels = random.integers(0, 256, (96, 96, 3), np.uint8)
                Image.fromarray(pixels).save(folder / "images" / part / kind / f"{number}.jpg")
    make_pretrained(folder)
    small = {
        "pretrain_tte.py": [
            "--epochs=1", "--train_images=64", "--batch_size=32", "--targets=", "--tasks=rotation",
            "--regularizer=none", "--ensemble=none", "--validation_fraction=0",
        ],
        # As many images as export.py needs at least to calibrate on, and a few more.
        "train_w_distill.py": [
            "--epochs=1", "--train_images=128", "--validation_fraction=0", "--Distillation=AT",
        ],
    }
    needed = {"runs/encoder", "runs/small"}
    chain = [command for command in TRAININGS if needed & set(command)]
    assert [command[1] for command in chain] == list(small)
    for _, script, *words in chain:
        command = [warm_python(), str(ROOT / script), *words, *small[script]]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    # Commands name further runs, of which only the kind matters.
    without = shutil.ignore_patterns("checkpoints", "logs", "best.npz")
    for name in ("TTE", "plain_sum", "instance"):
        shutil.copytree(folder / "runs/encoder", folder / "runs" / name, ignore=without)
    for name in ("large", "student"):
        shutil.copytree(folder / "runs/small", folder / "runs" / name, ignore=without)
    return folder


def make_pretrained(folder: Path) -> None:
    """Weights of a network of keras.applications, and a preset where KerasHub is installed."""
    keras.applications.MobileNetV2(
        weights=None, input_shape=(96, 96, 3), include_top=False, pooling="avg"
    ).save_weights(folder / "mobilenet_v2.weights.h5")
    if importlib.util.find_spec("keras_hub"):
        from keras_hub.models import ViTBackbone

        ViTBackbone(
            image_shape=(96, 96, 3), patch_size=16, num_layers=8, num_heads=2, hidden_dim=8,
            mlp_dim=16,
        ).save_to_preset(folder / "vit")


def from_here(command: tuple[str, ...]) -> list[str]:
    """The words after ``python``, with the files of the repository wherever one is."""
    return [str(ROOT / word) if (ROOT / word).is_file() else word for word in command[1:]]


def listing(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("command", TRAININGS, ids=shlex.join)
def test_training_command_as_a_dry_run(command, place, monkeypatch, capsys):
    words = from_here(command)
    if any("keras_hub:" in word for word in words):
        pytest.importorskip("keras_hub")
    # The presets are for CIFAR-100, which would have to be downloaded.
    data = ["--dataset", "digits"] if "--flagfile" in words else []
    data += [THROUGHPUT] if command[1] == "train_w_distill.py" else []
    # What was made for the commands after them is a run of other settings.
    again = ["--train_dir", "runs/elsewhere"] if "--train_dir" in words else []
    # As the line above the command in the guide says it.
    task = {"cluster": {"worker": ["node1:1", "node2:2"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(task))
    before = listing(place)
    monkeypatch.chdir(place)
    assert run_script(monkeypatch, capsys, *words, *data, *again, "--dry_run").strip()
    assert listing(place) == before, "a dry run writes nothing"


@pytest.mark.slow
@pytest.mark.parametrize("command", LONG_RUNS, ids=lambda command: shlex.join(command)[:160])
def test_long_run_as_a_dry_run_on_the_digits(command, tmp_path, monkeypatch, capsys):
    instead = {
        "train_w_distill.py": ["--dataset=digits", "--train_images=", "--teacher=", THROUGHPUT],
        "compare.py": ["--dataset=digits", "--train_images=", "--teacher="],
        "pretrain_tte.py": ["--dataset=digits", "--train_images="],
        "evaluate.py": ["--dataset=digits", "--train_images=", "--encoder=pixels", "--nobias"],
    }
    monkeypatch.chdir(tmp_path)
    words = [*from_here(command), *instead[command[1]]]
    assert run_script(monkeypatch, capsys, *words, "--dry_run").strip()


@pytest.mark.parametrize(
    "example",
    [block for document in DOCUMENTS if document.name != "CONTRIBUTING.md"
     for block in blocks(document, "python")],
)
def test_example_of_the_library(example, tmp_path, monkeypatch):
    """Each runs; trainings by `Settings` as dry runs, as their commands do, and of evaluations only
    the settings are checked."""
    monkeypatch.chdir(tmp_path)
    train, planned = train_w_distill.train, []

    def plan(settings):
        dry = dataclasses.replace(settings, dry_run=True, images_per_second=100)
        planned.append(train(dry))

    monkeypatch.setattr(train_w_distill, "train", plan)
    monkeypatch.setattr(evaluate, "evaluate", lambda settings: planned.append(settings.spelled()))
    exec(compile(example, "example", "exec"), {})
    assert bool(planned) == ("Settings(" in example)
    assert (tmp_path / "distilled.keras").exists() == ("distilled.keras" in example)


def test_what_it_names_exists():
    for document in (README, ROOT / "CONTRIBUTING.md"):
        for path in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (ROOT / path).exists(), path
    files = r"`((?:op_util|distillers|pretext|nets|dataloader|docs|tests|benchmarks)/[\w/]+\.py)`"
    examples = {
        "distillers/cwd.py", "tests/distillers/test_cwd.py", "pretext/tasks/context.py",
        "pretext/balances/inverse.py", "pretext/regularizers/agreement.py", "targets/spread.py",
    }
    for document in DOCUMENTS:
        for path in set(re.findall(files, document.read_text())):
            made_by_an_example = f"`{path}`:\n\n```python" in document.read_text()
            assert (ROOT / path).exists() or made_by_an_example or path in examples, path


def test_flags_it_names_exist(monkeypatch, capsys):
    known = {"help", "flagfile", "logdir", "strict", "dist"}
    known |= {"noNAME", "noflip", "nomixed_precision"}
    scripts = [*SCRIPTS, *dict.fromkeys(command[1] for command in benchmarks())]
    for script in scripts:
        # A benchmark finds its neighbours beside itself.
        monkeypatch.syspath_prepend(ROOT / Path(script).parent)
        help_text = run_script(monkeypatch, capsys, ROOT / script, "--help")
        known |= set(re.findall(r"^  --(\w+)", help_text, flags=re.MULTILINE))
    campaign = (ROOT / "tests/fuzz/campaign.py").read_text()
    known |= set(re.findall(r'add_argument\(\s*"--(\w+)"', campaign))
    known |= {"several_workers"}  # of pytest, see tests/conftest.py
    known |= {"gpus", "kill", "nodes", "ntasks", "requeue"}  # of Slurm
    for document in DOCUMENTS:
        named = set(re.findall(r"--([A-Za-z]\w*)", document.read_text()))
        # A flag that an example adds.
        named -= {"context_weight"} if document.name == "CONTRIBUTING.md" else set()
        assert named <= known, (document, named - known)


def test_the_table_of_methods_lists_them_all():
    table = README.read_text().partition("\n## Methods\n")[2].partition("\n\n`None`")[0]
    listed = set(re.findall(r"`(\w+)`", table)) | {"None"}
    assert listed == set(distillers.names())
