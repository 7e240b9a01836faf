"""The scores of pre-trained encoders, and the tables that are made from them.

    python benchmarks/evidence/encoder_results.py collect TABLE SCORES_DIR [--machine TEXT] [--add]
    python benchmarks/evidence/encoder_results.py tables

``collect`` copies what one ``evaluate.py`` found, and what the encoders' runs took, into
``encoders.csv``, a row for each encoder, seed and metric, and replaces what the table had before;
with ``--add``, what it had of the same encoders and seeds. ``tables`` brings the tables in
``docs/results/`` up to date: each stands between the lines ``<!-- encoders: TABLE -->`` and
``<!-- end of table -->``. Tables are made from ``encoders.csv`` alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import csv_tables  # noqa: E402 (found by the line above)

from experiment.report.scoreboard import mean_ranks, summarized  # noqa: E402
from experiment.report.statistics import spread  # noqa: E402
from experiment.report.tables import markdown_table  # noqa: E402
from registry import UserError  # noqa: E402

RESULTS = Path(__file__).with_name("encoders.csv")
PAGES = ROOT / "docs" / "results"
COLUMNS = ("table", "encoder", "seed", "target", "metric", "value", "machine")
RANDOM = "random:"  # begins the name of an encoder with fresh weights
TRAINING = ("epochs", "seconds")  # of the summary of an encoder's run


def collect(
    table: str, directory: Path, machine: str, results: Path = RESULTS, *, add: bool = False
) -> int:
    """Put the scores of an evaluation into `results`; how many encoders there are.

    Args:
        table: the name of the table that they are rows of; what it had before is replaced.
        directory: the ``--out_dir`` of evaluate.py.
        machine: what the encoders were trained on.
        results: a CSV file, which need not exist.
        add: replace only what the table had of the same encoders and seeds.

    Raises:
        UserError: the folder holds no finished evaluation.
    """
    file = directory / "targets.json"
    if not file.is_file():
        raise UserError(f"{directory} holds no targets.json; expected an --out_dir of evaluate.py")
    found = json.loads(file.read_text())
    short = short_names(list(found["targets"]))
    rows = [
        {"table": table, "encoder": short[name], "machine": machine, **row}
        for name, scores in found["targets"].items()
        for row in encoder_rows(found["encoders"][name], found["seeds"], scores)
    ]
    csv_tables.replace(results, COLUMNS, table, rows, ("encoder", "seed") if add else None)
    return len(found["targets"])


def short_names(encoders: Sequence[str]) -> dict[str, str]:
    """The encoders as evaluate.py names them, which tells them apart. One with fresh weights is
    called random, without its network, where it is the only one."""
    random = [name for name in encoders if name.startswith(RANDOM)]
    return {name: "random" if random == [name] else name for name in encoders}


def encoder_rows(
    path: str, seeds: Sequence[int], scores: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """The rows of one encoder: its scores, and what its run took where it is one."""
    for place, seed in enumerate(seeds):
        for target, metrics in scores.items():
            for metric, entry in metrics.items():
                yield {"seed": seed, "target": target, "metric": metric,
                       "value": entry["values"][place]}
        run = next((each for each in (Path(path) / f"seed{seed}", Path(path))
                    if (each / "summary.json").is_file()), None)
        if run is not None:
            summary = json.loads((run / "summary.json").read_text())
            for metric in TRAINING:
                yield {"seed": seed, "target": "training", "metric": metric,
                       "value": summary[metric]}


def read(results: Path = RESULTS) -> list[dict[str, str]]:
    """All rows, as text; none where there is no file."""
    return csv_tables.read(results)


def scores_of(rows: Iterable[Mapping[str, str]]) -> dict[str, list[dict[str, dict[str, float]]]]:
    """The metrics by encoder, seed, target and metric, as `experiment.report.scoreboard` has
    them."""
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for row in rows:
        of_seed = found.setdefault(row["encoder"], {}).setdefault(row["seed"], {})
        of_seed.setdefault(row["target"], {})[row["metric"]] = float(row["value"])
    return {encoder: list(seeds.values()) for encoder, seeds in found.items()}


def table_text(rows: Iterable[Mapping[str, str]]) -> str:
    """A table in Markdown: each encoder's training, the main metrics of all targets in percent, and
    its mean rank; the best rank first, encoders without one last."""
    from experiment.command import quiet  # noqa: F401 (loads TensorFlow without its messages)
    from targets.target import TARGETS

    summary = summarized(scores_of(rows))
    trained = {name: each.pop("training", {}) for name, each in summary.items()}
    ranks = mean_ranks(summary, TARGETS)
    columns = [
        (target, metric, titles[metric])
        for target in dict.fromkeys(target for each in summary.values() for target in each)
        for titles in [TARGETS.get(target).columns_of(
            {metric for each in summary.values() for metric in each.get(target, {})})]
        for metric in TARGETS.get(target).ranked if metric in titles
    ]
    table = []
    for name in sorted(summary, key=lambda name: ranks.get(name, {"mean": len(summary)})["mean"]):
        took = {metric: entry["mean"] for metric, entry in trained[name].items()}
        row = {
            "encoder": name,
            "epochs": f"{took['epochs']:.0f}" if took else "",
            "minutes": f"{took['seconds'] / 60:.1f}" if took else "",
        }
        for target, metric, title in columns:
            values = summary[name].get(target, {}).get(metric, {}).get("values", ())
            row[title] = spread(values).text(100) if values else ""
        table.append({**row, "mean rank": f"{ranks[name]['mean']:.2f}" if name in ranks else ""})
    return markdown_table(table)


def with_tables(page: str, rows: Iterable[Mapping[str, str]]) -> str:
    """A page's text with its tables as `rows` have them.

    Raises:
        UserError: the page has a table of which there is no row.
    """
    return csv_tables.with_tables(page, rows, "encoders", table_text, RESULTS.name)


def write_tables(pages: Path = PAGES, results: Path = RESULTS) -> list[Path]:
    """Bring the pages up to date; those that changed."""
    rows = read(results)
    return csv_tables.write_tables(pages, lambda page: with_tables(page, rows))


def main(words: list[str] | None = None) -> int:
    """Exit status."""
    parser, _ = csv_tables.make_parser(__doc__ or "")
    given = parser.parse_args(words)
    try:
        if given.command == "collect":
            count = collect(given.table, given.directory, given.machine, add=given.add)
            print(f"{count} encoders, in {RESULTS}")
        else:
            print("\n".join(map(str, write_tables())) or "all tables are up to date")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
