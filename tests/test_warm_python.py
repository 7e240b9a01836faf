"""A process with TensorFlow loaded does what ``python`` does."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.warm_python import HAS_AFFINITY, warm_python

TELLS = """
import json, os, sys
import helper
read = sys.stdin.read()
json.dump(
    [sys.argv, __name__, read, os.getcwd(), os.environ["GIVEN"], "HOME" in os.environ, helper.VALUE,
     sys.path[:2]], sys.stdout,
)
print("said", file=sys.stderr)
sys.exit(7)
"""
WAITS = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored by what a shell starts in the background
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
pathlib.Path("ready").touch()
time.sleep(60)
"""


@pytest.fixture(params=["python", "warm python"])
def python(request):
    return sys.executable if request.param == "python" else warm_python()


def test_script_gets_what_a_process_has_and_gives_what_it_gives(python, tmp_path):
    folder, library = tmp_path / "folder", tmp_path / "library"
    for each in (folder, library):
        each.mkdir()
    (tmp_path / "script.py").write_text(TELLS)
    (library / "helper.py").write_text("VALUE = 3")
    environment = {"GIVEN": "a b", "PATH": os.environ["PATH"], "PYTHONPATH": str(library)}
    done = subprocess.run(
        [python, "../script.py", "one", "-c"], cwd=folder, env=environment, input="in",
        capture_output=True, text=True,
    )
    assert (done.returncode, done.stderr) == (7, "said\n")
    assert json.loads(done.stdout) == [
        ["../script.py", "one", "-c"], "__main__", "in", str(folder), "a b", False, 3,
        [str(tmp_path), str(library)],
    ]


def test_code_and_its_traceback(python, tmp_path):
    code = "import sys; print(sys.argv, __name__, flush=True); [][len(sys.argv)]"
    done = subprocess.run(
        [python, "-c", code, "x"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "['-c', 'x'] __main__\n")
    assert done.stderr.endswith("IndexError: list index out of range\n")


def test_a_module(python, tmp_path):
    (tmp_path / "module.py").write_text(
        "import sys; print(__name__, sys.argv[1:], sys.modules['__main__'].__spec__.name)"
    )
    done = subprocess.run(
        [python, "-m", "module", "x"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "__main__ ['x'] module\n"), done.stderr


def test_other_options(python, tmp_path):
    code = "import sys; print(sys.flags.isolated, sys.argv)"
    done = subprocess.run([python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1 ['-c']\n"), done.stderr


@pytest.mark.skipif(not HAS_AFFINITY, reason="needs a system that ties processes to cores")
def test_what_it_starts_is_warm_too_and_on_the_same_cores(tmp_path):
    code = """
import os, subprocess, sys
print("tensorflow" in sys.modules, os.sched_getaffinity(0), flush=True)
if sys.argv[1:]:
    cores = {max(os.sched_getaffinity(0))}
    os.sched_setaffinity(0, cores)
    print(cores, flush=True)
    subprocess.run([sys.executable, "-c", sys.argv[1]])
"""
    done = subprocess.run(
        [warm_python(), "-c", code, code], cwd=tmp_path, capture_output=True, text=True
    )
    (_, first), (chosen,), (_, second) = (line.split(" ", 1) for line in done.stdout.splitlines())
    assert done.stdout.count("True") == 2 and second == chosen, done.stderr
    assert first == str(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 9), (signal.SIGINT, -signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_signals(python, tmp_path, number, status):
    with subprocess.Popen([python, "-c", WAITS], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(timeout=20) == status
        process.stderr.read()  # ends when nobody is left who could write


def test_a_process_that_kills_itself(python, tmp_path):
    code = "import os; os.kill(os.getpid(), 9)"
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")


def test_tensorflow_works_and_was_loaded_before(tmp_path):
    code = """
import sys
print("tensorflow" in sys.modules)
import tensorflow as tf
cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
print(len(tf.config.list_logical_devices("CPU")), tf.function(tf.reduce_sum)(tf.ones(3)).numpy())
"""
    done = subprocess.run(
        [warm_python(), "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "True\n2 3.0\n"), done.stderr
