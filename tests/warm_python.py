"""Python processes that begin with TensorFlow, and what else the commands use, loaded, which takes
seconds of every other process.

    subprocess.run([warm_python(), "script.py", "argument"], ...)

is ``python script.py argument`` (or ``-c code``, or ``-m module``), with the same environment,
folder, standard streams, processors, exit status and signals, but forked from a server that has
imported all of it, nothing of this repository, and used none of it. The process that the caller
starts is a small one that hands all this over. It is `sys.executable` of the process it starts, and
of tests that use the fixture `warm_children`, so what these start is warm too. A test of what
loading TensorFlow prints, of how long a command takes to start, or of process groups needs a cold
Python instead.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_SECONDS = 0.005
HAS_AFFINITY = hasattr(os, "sched_setaffinity")  # not on macOS
COLD_PYTHON = sys.executable
LOADED = (
    "keras", "tensorflow", "absl.flags", "h5py", "matplotlib.figure", "matplotlib.image",
    "ml_dtypes", "PIL.Image", "psutil", "requests", "scipy.io", "scipy.optimize", "scipy.spatial",
    "scipy.stats", "sklearn.cluster", "sklearn.datasets", "sklearn.linear_model",
    "sklearn.manifold", "sklearn.metrics", "sklearn.neighbors", "sklearn.preprocessing",
)
EXECUTABLE = """#!{python} -IS
import runpy, sys
sys.argv[:1] = [{this!r}, "launch", {address!r}]
runpy.run_path({this!r}, run_name="__main__")
"""


@functools.cache
def warm_python() -> str:
    """The executable. The server is started the first time, and ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="warm-python-"))
    address, executable = str(folder / "socket"), folder / "python"
    executable.write_text(
        EXECUTABLE.format(python=COLD_PYTHON, this=__file__, address=address), encoding="utf-8"
    )
    executable.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["OPENBLAS_NUM_THREADS"] = "1"  # which NumPy starts when it is imported
    server = subprocess.Popen(
        [COLD_PYTHON, __file__, "serve", address], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )
    assert server.stdout and server.stdout.readline() == "ready\n"
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.kill)
    return str(executable)


# The process that the caller starts


def launch(address: str, words: list[str]) -> None:
    """Ask the server for a process that does ``python *words`` in this one's place; forward signals
    to it, and end as it does. With other options of Python's than -c and -m, become a cold one."""
    if words[0].startswith("-") and words[0] not in ("-c", "-m"):
        os.execv(COLD_PYTHON, [COLD_PYTHON, *words])
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # until there is whom to forward them to
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        request = {
            "words": words, "folder": os.getcwd(), "environment": dict(os.environ),
            "cores": list(os.sched_getaffinity(0)) if HAS_AFFINITY else [],
            "executable": str(Path(address).with_name("python")),
        }
        _send(server, request, [0, 1, 2])
        pid = _receive(server)[0]["pid"]
        for each in FORWARDED:
            signal.signal(each, lambda number, _: os.kill(pid, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        status = _receive(server)[0]["status"]
    if status < 0:
        if -status in FORWARDED:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


# The server


def serve(address: str) -> dict[str, Any] | None:
    """Fork a process for each request, until stdin is closed. In a forked process: its request."""
    for module in LOADED:
        importlib.import_module(module)
    threads = Path("/proc/self/task")  # of Linux
    assert not threads.exists() or len(list(threads.iterdir())) == 1, "no thread survives a fork"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            caller, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return _fork_for(caller)
            caller.close()
    return None


def _fork_for(caller: socket.socket) -> dict[str, Any]:
    """Receive a request and fork; the parent tells the caller how the child ends, and kills it if
    the caller is gone; the child gets the request."""
    request, streams = _receive(caller, 3)
    pid = os.fork()
    if pid == 0:
        caller.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return request
    for stream in streams:
        os.close(stream)
    _send(caller, {"pid": pid})
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if select.select([caller], [], [], POLL_SECONDS)[0]:
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
            break
    status = os.waitstatus_to_exitcode(ended[1])
    with contextlib.suppress(BrokenPipeError):  # the caller was killed
        _send(caller, {"status": status})
    os._exit(0)


def become(request: dict[str, Any]) -> None:
    """In a forked process: what Python does with the words of its command line."""
    for each in FORWARDED:
        usual = signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL
        signal.signal(each, usual)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    if HAS_AFFINITY:
        os.sched_setaffinity(0, request["cores"])
    sys.executable = request["executable"]
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    first, *others = request["words"]
    own = ""
    if first == "-m":
        own = os.getcwd()
    elif first != "-c":
        own = str(Path(first).resolve().parent)
    found = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:1] = [own, *found]
    sys.stdin, sys.stdout, sys.stderr = (
        open(  # noqa: SIM115
            number, mode, buffering=1 if os.isatty(number) or number == 2 else -1, closefd=False
        )
        for number, mode in enumerate("rww")
    )
    if first == "-c":
        code, *others = others
        sys.argv = ["-c", *others]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        module, *others = others
        sys.argv = ["-m", *others]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *others]
        runpy.run_path(first, run_name="__main__")


# Messages: JSON behind its length, with open files


def _send(to: socket.socket, message: dict[str, Any], files: list[int] | None = None) -> None:
    text = json.dumps(message).encode()
    socket.send_fds(to, [struct.pack("!I", len(text))], files or [])
    to.sendall(text)


def _receive(of: socket.socket, files: int = 0) -> tuple[dict[str, Any], list[int]]:
    length, found, *_ = socket.recv_fds(of, 4, files)
    text = b""
    while len(text) < struct.unpack("!I", length)[0]:
        text += of.recv(1 << 16)
    return json.loads(text), list(found)


if __name__ == "__main__":
    what, address, *words = sys.argv[1:]
    if what == "launch":
        launch(address, words)
    elif (request := serve(address)) is not None:
        become(request)
