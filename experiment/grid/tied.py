"""Executes a command that is asked to end, by SIGTERM, when the process that started this one ends,
however that happens.

    python tied.py CORES COMMAND ...

CORES are the numbers of the cores on which the command may run, such as 0,1; empty: on all.
Standard input is a pipe that the parent holds open: it closes when the parent ends. (What Linux has
for this, PR_SET_PDEATHSIG, is about the thread that forked. Where a process with several threads is
killed, its child may get the signal once for each of them, which means "end at once".)

The command is in this process' group, and ends this process in the same way as it ends itself. This
is a program of its own, as a process with threads must not run Python code between fork and
execution.
"""

import ctypes
import os
import select
import signal
import sys

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
STOPPING = (signal.SIGINT, signal.SIGTERM)


def start(command: list[str]) -> int:
    """Start the command; its process id."""
    child = os.fork()
    if child:
        return child
    for number in (*STOPPING, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":  # Should this process be killed, which has one thread.
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    os.execvp(command[0], command)


def wait(child: int, wake_up: int) -> int:
    """Wait for the command, and ask it to end when the parent has; its exit status, or -N where the
    signal N ended it.

    Args:
        child: the process id of the command.
        wake_up: of a pipe that is written to when a signal comes.
    """
    watched = [sys.stdin.fileno(), wake_up]
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        ready, _, _ = select.select(watched, [], [])
        if wake_up in ready:
            os.read(wake_up, 1 << 12)
        if sys.stdin.fileno() in ready:
            watched.remove(sys.stdin.fileno())
            os.kill(child, signal.SIGTERM)


if __name__ == "__main__":
    cores, words = sys.argv[1], sys.argv[2:]
    if cores:
        os.sched_setaffinity(0, map(int, cores.split(",")))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for each in (*STOPPING, signal.SIGCHLD):
        signal.signal(each, lambda *_: None)  # The command gets it too.
    ending = wait(start(words), reading)
    if ending < 0:
        if -ending in (*STOPPING, signal.SIGCHLD):
            signal.signal(-ending, signal.SIG_DFL)
        os.kill(os.getpid(), -ending)
    sys.exit(ending)
