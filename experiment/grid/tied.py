"""Executes a command that is ended by SIGTERM when its parent ends, however that happens.

    python tied.py PARENT COMMAND ...

PARENT is the parent's process id. Only Linux can do this; elsewhere the command outlives its
parent. A program of its own, as what is set here lasts through the execution of another program,
and as a process with threads must not run Python code between fork and execution.
"""

import ctypes
import os
import signal
import sys

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>

if __name__ == "__main__":
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before it could be told of
            sys.exit(128 + signal.SIGTERM)
    os.execvp(command[0], command)
