"""What the tests of scripts share: processes as a person starts them, and what folders hold."""

import os
import subprocess
import sys
import time

TIMES = ("seconds", "images_per_second")


def start(script, *arguments, **options):
    """A process as a person would start it, without the quiet that conftest.py asks for."""
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, str(script), *map(str, arguments)]
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
