"""Bad inputs by the thousand: each command has to answer in one line, or do its work.

    python -m tests.fuzz.campaign --seconds 600 --seed 0

spoils inputs of every reader and gives every flag odd values, by a seed, until the time is over.
Each command line runs in a process of its own. It has to end with status 0 or 2, with at most one
line on stderr, without a traceback, within 60 s and 2 GB. What does not is printed with the words
that repeat it, such as ``--case npz/123``, which leave the spoiled input in ``--keep FOLDER``.

    python -m tests.fuzz.campaign --kills 20 --seed 0

kills runs of the commands at random moments, see `tests.fuzz.kills`.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz import children, flag_words, inputs, kills
from tests.fuzz.material import Material

FLAGS = "flags of "
FLAG_SHARE = 12
SLOW = {"runs", "encoders", "comparison"}


@dataclass(frozen=True)
class Case:
    """One bad command line.

    Attributes:
        kind: the reader, or ``flags of COMMAND``.
        seed: of all that is random in it.
        words: the command.
        done: what was spoiled.
        ended: how the command ended.
    """

    kind: str
    seed: int
    words: list[str]
    done: str
    ended: children.Ended


def chosen(quick: bool) -> dict[str, inputs.Input]:
    """The readers; `quick`: those that need no finished run of whatever kind."""
    return {
        name: each for name, each in inputs.INPUTS.items()
        if not (quick and SLOW.intersection(each.material))
    }


def kinds(quick: bool = False) -> list[str]:
    """What is tried, each as often as its share says."""
    commands = [name for name in children.COMMANDS if not (quick and name in flag_words.NEEDED_TOO)]
    found = [FLAGS + command for command in commands for _ in range(FLAG_SHARE)]
    return found + [name for name, each in chosen(quick).items() for _ in range(each.share)]


def try_case(kind: str, seed: int, material: Material, folder: Path) -> Case:
    """Spoil something and run a command that reads it, all in `folder`."""
    random = Random(f"{kind}/{seed}")
    if kind.startswith(FLAGS):
        words = flag_words.choose(kind.removeprefix(FLAGS), random, material, folder)
        done = ""
    else:
        words, done = inputs.spoiled(kind, random, material, folder)
    return Case(kind, seed, words, done, children.run_command(words, folder))


def report(case: Case) -> str:
    """A fault, with the words that repeat it."""
    words = " ".join(shlex.quote(word[:120]) for word in case.words)
    return (
        f"FAULT --case {shlex.quote(f'{case.kind}/{case.seed}')}: {case.ended.fault()}\n"
        f"    {words.encode(errors='backslashreplace').decode()}\n    {case.done}"
    )


def try_good(folder: Path, quick: bool) -> int:
    """Run every command on inputs that are not spoiled; the number of faults."""
    material, faults = Material(folder / "good"), 0
    commands = [
        (own.material, command) for own in chosen(quick).values() for command in own.commands
    ] + [
        ((*flag_words.NEEDED, *flag_words.NEEDED_TOO.get(name, ())), (name, *base, "--dry_run"))
        for name, bases in flag_words.BASES.items() for base in bases
        if not (quick and name in flag_words.NEEDED_TOO)
    ]
    for needed, words in commands:
        material.need(*needed)
        shutil.copytree(material.folder, folder / "case")
        ended = children.run_command(words, folder / "case")
        shutil.rmtree(folder / "case")
        if ended.status or ended.fault():
            faults += 1
            print(f"FAULT {shlex.join(words)}: {ended}")
    print(f"{len(commands)} good inputs, {faults} faults")
    return faults


def run(
    seed: int, most_cases: int, most_seconds: float, folder: Path, quick: bool = False
) -> tuple[Counter, int]:
    """Try cases until there are so many or the time is over.

    Args:
        seed: of what is tried.
        most_cases, most_seconds: bounds.
        folder: to work in.
        quick: see `chosen`.

    Returns:
        How many ended with each status by kind, and the number of faults.
    """
    order = kinds(quick)
    Random(seed).shuffle(order)
    material, began = Material(folder / "good"), time.monotonic()
    statuses: Counter = Counter()
    faults, longest, largest = 0, 0.0, 0
    for number in range(most_cases):
        if time.monotonic() - began > most_seconds:
            break
        place = folder / "case"
        case = try_case(order[number % len(order)], seed * 1_000_000 + number, material, place)
        shutil.rmtree(place)
        statuses[case.kind, case.ended.status] += 1
        longest = max(longest, case.ended.seconds)
        largest = max(largest, case.ended.bytes)
        if case.ended.fault():
            faults += 1
            print(report(case), flush=True)
    seconds = time.monotonic() - began
    print(f"{sum(statuses.values())} cases in {seconds:.0f} s, seed {seed}: {faults} faults; the "
          f"longest took {longest:.1f} s, the largest {largest / 1e9:.2f} GB")
    return statuses, faults


def table(statuses: Counter) -> str:
    """The number of cases by kind and status."""
    columns = sorted({status for _, status in statuses}, key=str)
    lines = ["| input | " + " | ".join(f"status {each}" for each in columns) + " |",
             "|---|" + "---:|" * len(columns)]
    for kind in sorted({kind for kind, _ in statuses}):
        counts = " | ".join(str(statuses[kind, each]) for each in columns)
        lines.append(f"| {kind} | {counts} |")
    return "\n".join(lines)


def repeat(text: str, keep: Path) -> int:
    """Try the case that `text` names again, and leave its folder; the number of faults."""
    kind, _, seed = text.rpartition("/")
    if (keep / "case").exists():
        shutil.rmtree(keep / "case")
    case = try_case(kind, int(seed), Material(keep / "good"), keep / "case")
    print(f"in {keep / 'case'}: {shlex.join(case.words)}\n{case.done}\nstatus {case.ended.status}, "
          f"{case.ended.seconds:.1f} s, {case.ended.bytes / 1e9:.2f} GB\n{case.ended.err}")
    return int(bool(case.ended.fault()))


def main() -> int:
    """The exit status: 1 where there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--cases", type=int, default=sys.maxsize)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", default="", help="try this one again")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "fuzz"))
    parser.add_argument("--quick", action="store_true", help="nothing that needs a finished run")
    parser.add_argument("--good", action="store_true", help="inputs that are not spoiled")
    parser.add_argument("--kills", type=int, default=0, help="kill so many runs instead")
    parser.add_argument("--first", type=int, default=0, help="number of the first kill trial")
    parser.add_argument("--commands", default=",".join(children.COMMANDS), help="to be killed")
    given = parser.parse_args()
    children.load()
    if given.case:
        return repeat(given.case, given.keep)
    with tempfile.TemporaryDirectory() as folder, children.no_children_left():
        if given.good:
            return int(try_good(Path(folder), given.quick) > 0)
        if given.kills:
            return kills.run(given.seed, given.first, given.kills, given.seconds, Path(folder),
                             given.commands.split(","))
        statuses, faults = run(
            given.seed, given.cases, given.seconds, Path(folder), given.quick
        )
    print(table(statuses))
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
