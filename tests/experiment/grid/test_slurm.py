import os
import pickle
import sys

import pytest

from experiment.grid.slurm import Jobs, parse_options
from registry import UserError

SBATCH = """#!/bin/sh
cp "$1" "$0.script"
echo Submitted batch job 4711
"""


def test_options():
    words = ["partition=gpu", "time=240", "mem=32G", "gres=gpu:a100:1"]
    assert parse_options(words) == {
        "partition": "gpu", "time": 240, "mem": "32G", "gres": "gpu:a100:1"
    }
    for word in ("gpu", "=3", "time=", "a b=3"):
        with pytest.raises(UserError, match="expected NAME=VALUE"):
            parse_options([word])


def jobs(folder, **options):
    return Jobs(["python", "compare.py", "--Distillation=AT(weight=1)"], 3, folder, options)


def test_text_says_what_would_be_submitted(tmp_path):
    assert jobs(tmp_path, partition="gpu", time=240).text().splitlines() == [
        "3 Slurm jobs as one array, with partition=gpu, time=240, each:",
        f"    cd {os.getcwd()}",
        "    python compare.py '--Distillation=AT(weight=1)'",
        f"    output in {tmp_path}",
    ]


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    for ask in (jobs(tmp_path).check, jobs(tmp_path).submit):
        with pytest.raises(UserError, match=r"package submitit, .*requirements-slurm\.txt"):
            ask()


def test_jobs_are_submitted_as_an_array(tmp_path, monkeypatch):
    """By a Slurm of which only the command line is there."""
    submitit = pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match=r"cannot submit to Slurm: Could not detect .srun"):
        jobs(tmp_path / "jobs").check()
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text(SBATCH)
        (tmp_path / name).chmod(0o755)
    with pytest.raises(UserError, match=r"Unavailable parameter\(s\): \['partitoin'\]"):
        jobs(tmp_path / "jobs", partitoin="gpu").check()
    jobs(tmp_path / "jobs", partition="gpu", time=240).check()
    assert not (tmp_path / "jobs").exists()
    assert jobs(tmp_path / "jobs", partition="gpu", time=240, gpus_per_node=1).submit() == "4711"
    script = (tmp_path / "sbatch.script").read_text()
    assert {"#SBATCH --array=0-2%3", "#SBATCH --partition=gpu", "#SBATCH --time=240",
            "#SBATCH --gpus-per-node=1"} <= set(script.splitlines())
    submitted = (tmp_path / "jobs").glob("*_submitted.pkl")
    tasks = [pickle.loads(path.read_bytes()) for path in submitted]
    assert len(tasks) == 3
    assert all(isinstance(task.function, submitit.helpers.CommandFunction) for task in tasks)
    assert tasks[0].function.command == ["python", "compare.py", "--Distillation=AT(weight=1)"]
