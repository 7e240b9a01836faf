"""A run that takes no time: a run folder with a summary, or what goes wrong.

    python fake_run.py FOLDER SETTINGS WHAT

SETTINGS: JSON. WHAT: fine, fault (an exception), mistake (before there is a run folder), nothing
(ends well without a summary), killed (by SIGKILL), wait (until it is told to stop, of which it
notes how often; the next call is fine), slow (fine, after a second). A file ``well`` beside the
folder makes all of them fine.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from experiment.run.folder import RunFolder
from experiment.run.interruption import Signals

folder, settings, what = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
if (folder.parent / "well").exists():
    what = "fine"
if what == "mistake":
    print("error: no such data", file=sys.stderr)
    sys.exit(2)
with RunFolder(folder) as run:
    begun = run.open(settings)
    print(f"{begun} {settings}")
    if what == "fault":
        raise ValueError("a fault\nof two lines")
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wait" and begun == "new":
        with Signals() as signals:
            print("1/3  accuracy 0.5")
            while signals.received is None:
                time.sleep(0.02)
            time.sleep(0.3)  # a second signal would end the process here
            run.output("saved").write_text(signal.Signals(signals.received).name)
        sys.exit(128 + signals.received)
    if what == "slow":
        time.sleep(1)
    if what != "nothing":
        run.finish({"top1": settings["seed"] / 10, "seconds": 60.0, "begun": begun})
