"""What the tests of scripts share: processes as a person starts them, and what folders hold."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np

from experiment.run import arrays
from experiment.run.training import read_history
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[1]
TIMES = ("seconds", "images_per_second")


def start(script, *arguments, python=sys.executable, **options):
    """A process as a person would start it, without the quiet and the single thread that
    conftest.py asks for."""
    asked = ("TF_CPP_MIN_LOG_LEVEL", "TF_NUM_INTRAOP_THREADS")
    environment = {key: value for key, value in os.environ.items() if key not in asked}
    command = [python, str(script), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


def stop_at(process, folder, pattern, signal_number):
    """Send a signal as soon as there is a file; the exit status and stderr."""
    try:
        while process.poll() is None and not any(folder.glob(pattern)):
            time.sleep(0.005)
        process.send_signal(signal_number)
        return process.wait(timeout=60), process.stderr.read()
    finally:
        process.kill()
        process.stderr.close()


def everything_in(folder):
    return {path: path.is_dir() or path.read_bytes() for path in sorted(folder.rglob("*"))}


def with_times(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def without_times(row):
    return {key: value for key, value in row.items() if key not in TIMES}


def flags_by_group(script, cwd):
    """What ``--help`` prints, checked to be 80 columns wide, with each flag once and a line about
    it below: all of it, and the group of each flag."""
    process = start(script, "--help", cwd=cwd, stdout=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    group, found = "", {}
    for line, below in zip(out.splitlines(), [*out.splitlines()[1:], ""], strict=True):
        if re.fullmatch(r"\w+:", line):
            group = line[:-1]
        flag = re.match(r"  --(\w+)", line)
        if flag:
            assert flag[1] not in found and re.match(r"    \S", below)
            found[flag[1]] = group
    return out, found


def assert_alone(code, folder, cwd):
    """That `code`, given a run folder, ends as it should where this repository cannot be
    imported, and nothing of it is loaded."""
    folders = {path.parent for path in ROOT.glob("*/*.py")}
    ours = {path.stem for path in (*ROOT.glob("*.py"), *folders)}
    assert {"registry", "nets", "experiment"} < ours
    code += f"print(sorted({ours} & set(sys.modules)))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [warm_python(), "-c", code, str(folder)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.stdout == "as it should be\n[]\n", done.stderr


def assert_same_run(one, other, arrays_of_it, network):
    """Two finished run folders: the same bits in everything but times.

    Args:
        one, other: the folders.
        arrays_of_it: names of ``.npz`` files in them.
        network: name of the ``.keras`` file in them.
    """
    for name in arrays_of_it:
        (about, groups), (other_about, other_groups) = (
            arrays.load(folder / name) for folder in (one, other)
        )
        for each in (about, other_about):
            each["history"] = list(map(without_times, each.get("history", [])))
        assert about == other_about
        assert {group: list(names) for group, names in groups.items()} == {
            group: list(names) for group, names in other_groups.items()
        }
        for group, values in groups.items():
            for key, value in values.items():
                assert value.tobytes() == other_groups[group][key].tobytes(), (group, key)
    rows, weights, summaries = [], [], []
    for folder in (one, other):
        rows.append(list(map(without_times, read_history(folder / "history.csv"))))
        weights.append(keras.models.load_model(folder / network).get_weights())
        summary = without_times(json.loads((folder / "summary.json").read_text()))
        del summary["settings"]  # of which the folder is one
        summaries.append(summary)
    assert rows[0] == rows[1] and summaries[0] == summaries[1]
    assert all(map(np.array_equal, *weights))
