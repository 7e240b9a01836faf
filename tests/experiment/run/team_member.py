"""A worker without TensorFlow, that does what its test asks for.

    python team_member.py ADDRESSES INDEX LIMIT WHAT
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from experiment.run import links, workers
from experiment.run.workers import Rounds, Team
from registry import UserError

links.BEAT_SECONDS, links.SILENCE_SECONDS = 0.1, 1.5
workers.ROUND_SECONDS = 0.2


def tell(team):
    path = team.scratch() / "file"
    if team.is_chief:
        path.write_bytes(b"chief's")
    team.share_file(path)
    return {
        "bytes": [each.decode() for each in team.exchange_bytes(b"\n" * 3 + b"%d" % team.index)],
        "values": team.exchange({"index": team.index, "text": "ä"}),
        "large": [len(each) for each in team.exchange_bytes(bytes(5_000_000 * team.index))],
        "of chief": team.ask_chief(lambda: f"from {team.index}"),
        "file": path.read_text(),
    }


def count_rounds(team):
    """Steps of 1 ms, until a worker's wish to stop has reached all."""
    rounds = Rounds(team)
    for step in range(10_000):
        time.sleep(0.001)
        wish = signal.SIGTERM if team.index == 1 and step >= 20 else None
        stop, save = rounds.agree(step, wish, is_time=team.is_chief and step == 0)
        if step == 0:
            assert (stop, save) == (None, True)
        if stop is not None:
            return [step, stop]
    return None


def refuse(team):
    def fail():
        raise UserError("the folder is in use")

    return team.ask_chief(fail)


def differ(team):
    facts = {"--epochs": 1 + (team.index == 1), "--seed": 3}
    team.require_same(facts | ({"nets/vgg.py": "abc"} if team.is_chief else {}))


def lose(how, who=-1):
    def end(team):
        if team.index == who % team.size:
            if how == "failure":
                raise ValueError("no space")
            os.kill(os.getpid(), how)
        team.exchange(None)

    return end


def farewell(team):
    """One leaves long before the others, who do not mind."""
    if team.index == 1:
        time.sleep(3)


WHATS = {
    "tell": tell, "rounds": count_rounds, "refuse": refuse, "differ": differ,
    "killed": lose(signal.SIGKILL), "stopped": lose(signal.SIGSTOP), "failed": lose("failure"),
    "farewell": farewell, "chief killed": lose(signal.SIGKILL, who=0),
}

if __name__ == "__main__":
    addresses, index, limit = json.loads(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    try:
        team = Team(addresses, index, links.meet(addresses, index, limit, "start all again"))
        try:
            print(json.dumps(WHATS[sys.argv[4]](team)), flush=True)
        except ValueError as error:
            team.leave(str(error))
            raise
        scratch = team.scratch()
        team.leave()
        assert not Path(scratch).exists()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
