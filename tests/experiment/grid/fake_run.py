"""A run that takes no time: a run folder with a summary, or what goes wrong.

    python fake_run.py FOLDER SETTINGS WHAT

SETTINGS: JSON. WHAT: fine, fault (an exception), mistake (before there is a run folder), nothing
(ends well without a summary), killed (by SIGKILL), wait (until it is told to stop, of which it
notes how often; the next call is fine), slow (fine, after a second), short (fine, after a little
while), export (the first call is fine, the next one also leaves a file student.bin). A file
``well`` beside the folder makes all of them fine. Each start leaves a line in the file
``FOLDER.starts``.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from experiment.run import interruption
from experiment.run.folder import RunFolder
from experiment.run.interruption import Signals

SECONDS = {"slow": 1.0, "short": 0.2}


def cores():
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


folder, settings, what = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
if (folder.parent / "well").exists():
    what = "fine"
with open(folder.with_name(f"{folder.name}.starts"), "a") as starts:
    starts.write(f"{os.getpid()}\n")
if what == "mistake":
    print("error: no such data", file=sys.stderr)
    sys.exit(2)
with RunFolder(folder) as run:
    begun = run.open(settings)
    print(f"GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}, cores {cores()}")
    print(f"{begun} {settings}")
    if what == "fault":
        raise ValueError("a fault\nof two lines")
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wait" and begun == "new":
        interruption.COPY_SECONDS = 0.0
        with Signals() as signals:
            print("1/3  accuracy 0.5")
            while signals.received is None:
                time.sleep(0.02)
            time.sleep(0.3)  # a second signal would end the process here
            run.output("saved").write_text(signal.Signals(signals.received).name)
        sys.exit(128 + signals.received)
    if what == "export" and begun == "finished":
        run.output("student.bin").touch()
    if what in SECONDS:
        time.sleep(SECONDS[what])
    if what != "nothing":
        top1 = (settings["seed"] + len(settings["group"])) / 10
        run.finish({
            "top1": settings["seed"] / 10, "seconds": 60.0, "begun": begun, "student_top1": top1,
            "student_top1_last": top1, "student_top1_best": top1, "student_top5_last": 1.0,
            "teacher_top1": 0.9, "images_per_second": 100.0, "parameters": 10, "flops": 20,
        })
