"""Processes of this host as the workers of one run."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_addresses(count):
    """``localhost:PORT`` of ports that nobody uses at the moment."""
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return [f"localhost:{port}" for port in ports]


def environment(addresses, index, **more):
    """Of one of the workers; a thread each, or they take the processors from each other."""
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    kept = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return {**kept, "PYTHONPATH": str(ROOT), "TF_CONFIG": json.dumps(task), **more}


def start_workers(
    count, *command, addresses=None, each=lambda index: (), prefix=(), python=sys.executable,
    **more,
):
    """`command`, and `each` worker's own words after it, once for each worker."""
    addresses = addresses or free_addresses(count)
    return [
        subprocess.Popen(
            [*(prefix[index] if prefix else ()), python, *map(str, command), *each(index)],
            env=environment(addresses, index, **more), cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for index in range(count)
    ]


def ends(processes, timeout=300):
    """Exit status, stdout and stderr of each; none is left running."""
    until = time.monotonic() + timeout
    try:
        found = []
        for process in processes:
            out, err = process.communicate(timeout=max(until - time.monotonic(), 1))
            found.append((process.returncode, out, err))
        return found
    finally:
        for process in processes:
            process.kill()
