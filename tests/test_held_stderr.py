"""What a library written in C++ would print, here written to the process' stderr itself."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from held_stderr import held_stderr, real_stderr

ROOT = Path(__file__).parents[1]


def write(text):
    os.write(2, text.encode())


def test_of_what_is_written_within_the_kept_lines_are_there_at_the_end(capfd):
    seen = []

    def is_kept(line):
        seen.append(line)
        return line.startswith(b"E")

    write("before\n")
    with held_stderr(is_kept):
        write("I one\nE two\n")
        subprocess.run([sys.executable, "-ISc", "import os; os.write(2, b'E of a child\\n')"])
        print("E of Python", file=sys.__stderr__)
        write("I three\nE without an end")
        assert capfd.readouterr().err == "before\n"
    assert seen == [b"I one\n", b"E two\n", b"E of a child\n", *seen[3:]] and len(seen) == 6
    err = capfd.readouterr().err
    assert err.startswith("E two\nE of a child\n") and "E without an end" in err
    assert "I " not in err
    write("after\n")
    assert capfd.readouterr().err == "after\n"


def test_what_is_raised_within_goes_on_after_the_lines(capfd):
    descriptors = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with pytest.raises(ValueError, match="^it$"), held_stderr(lambda line: line == b"kept\n"):
        write("dropped\nkept\n")
        raise ValueError("it")
    assert capfd.readouterr().err == "kept\n"
    write("after\n")
    assert capfd.readouterr().err == "after\n"
    assert not descriptors or len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("already", [False, True])
def test_whether_crashes_are_reported_is_as_before(already):
    done = run(f"""
import faulthandler
from held_stderr import held_stderr
if {already}:
    faulthandler.enable()
with held_stderr(lambda line: True):
    assert faulthandler.is_enabled()
assert faulthandler.is_enabled() == {already}
""")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_crash_within_is_reported_at_once():
    """What was held back is lost: nothing of the process runs on."""
    done = run("""
import os, signal
from held_stderr import held_stderr
with held_stderr(lambda line: True):
    os.write(2, b"held back\\n")
    os.kill(os.getpid(), signal.SIGSEGV)
""")
    assert done.returncode == -signal.SIGSEGV
    assert done.stderr.startswith("Fatal Python error: Segmentation fault")


def run(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)


def test_last_words_of_a_process_that_ends_within_are_seen():
    code = """
import os
from held_stderr import held_stderr, real_stderr
with held_stderr(lambda line: True):
    os.write(2, b"held")
    os.write(real_stderr(), b"told")
    os._exit(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (3, b"told")


def test_of_nothing_held_the_real_one_is_stderr_itself():
    seen = os.fstat(2)
    with held_stderr(lambda line: False), held_stderr(lambda line: False):
        assert os.path.samestat(os.fstat(real_stderr()), seen)
    assert real_stderr() == 2
