import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
import signal
from absl import flags
from experiment.run.interruption import Interrupted
from experiment.command.main import run
from registry import UserError

flags.DEFINE_integer("epochs", 3, "Epochs.", lower_bound=1)
flags.DEFINE_string("do", "", "What happens.")
flags.DEFINE_boolean("fast", False, "Fast.")

def main(_):
    match flags.FLAGS.do:
        case "mistake": raise UserError("unknown net 'x';\\n known: y")
        case "stop": raise Interrupted(signal.SIGTERM)
        case "fault": raise ValueError("a fault of ours")
        case "file": open("/no/such/file")
        case "ctrl-c": raise KeyboardInterrupt
        case _: print("epochs", flags.FLAGS.epochs)

run(main)
"""


def call(*arguments):
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_good_flags():
    done = call("--epochs=5")
    assert (done.returncode, done.stdout) == (0, "epochs 5\n")
    assert call("--help").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch=5"], "Unknown command line flag 'epoch'"),
        (["--epochs=many"], "flag --epochs=many"),
        (["--epochs=0"], "flag --epochs=0"),
        (["--do=mistake"], "error: unknown net 'x'; known: y"),
        (["--nofast=7"], "--nofast=7 does not take an argument"),
        (["extra"], "unexpected argument 'extra'"),
        (["--flagfile=/no/such/file"], "/no/such/file"),
        (["--flagfile=/usr/bin/env"], "is not UTF-8 text"),
        (["--do=file"], "No such file or directory: '/no/such/file'; details: "),
    ],
)
def test_mistakes_take_one_line(arguments, message):
    done = call(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


def test_faults_of_ours_keep_their_traceback():
    done = call("--do=fault")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_interruption_exits_as_shells_expect():
    done = call("--do=stop")
    assert (done.returncode, done.stderr) == (143, "")


def test_the_traceback_of_a_failed_file_is_where_the_line_says():
    path = Path(call("--do=file").stderr.rpartition(" ")[2].strip())
    assert "Traceback" in path.read_text() and "/no/such/file" in path.read_text()


def test_ctrl_c_outside_of_training_takes_one_line():
    done = call("--do=ctrl-c")
    assert done.returncode == 130 and done.stderr.count("\n") == 1
    code = (
        "from experiment.command.main import read\n"
        "read('', lambda: None, lambda: None)\n"
        "raise KeyboardInterrupt  # as while TensorFlow is imported\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "interrupted\n")


@pytest.mark.parametrize("within", ["contextlib.nullcontext()", "RunFolder(sys.argv[1])"])
def test_a_closed_pipe_ends_in_silence(within, tmp_path):
    code = (
        "import contextlib, sys\n"
        "from experiment.command.main import run\n"
        "from experiment.run.folder import RunFolder\n"
        "def main(lines):\n"
        f"    with {within} as folder:\n"
        "        if folder: folder.open({})\n"
        "        print(lines)\n"
        "run(main, 'line\\n' * 100000)"
    )
    command = f"{sys.executable} -c \"{code}\" {tmp_path} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (141, "")
