"""The table of encoders comes from encoders.csv, which comes from a finished evaluation."""

import errno
import importlib
import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCORES = {  # of two seeds
    "TTE": {"linear_probe": [0.32, 0.36], "knn": [0.2, 0.2], "fine_tuning_10": [0.5, 0.5]},
    "instance": {"linear_probe": [0.31, 0.35], "knn": [0.1, 0.1], "fine_tuning_10": [0.4, 0.4]},
    "pixels": {"linear_probe": [0.1, 0.1], "knn": [0.1, 0.1]},
}


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "evidence"))  # as for a script
    return importlib.import_module("encoder_results")


@pytest.fixture
def evaluation(tmp_path):
    for seed in (0, 1):
        (tmp_path / "TTE" / f"seed{seed}").mkdir(parents=True)
        (tmp_path / "TTE" / f"seed{seed}" / "summary.json").write_text(
            json.dumps({"epochs": 12, "seconds": 90 + 60 * seed})
        )
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "targets.json").write_text(json.dumps({
        "seeds": [0, 1],
        "encoders": {name: str(tmp_path / name) for name in SCORES},
        "targets": {
            name: {"classification": {
                metric: {"values": values} for metric, values in metrics.items()
            }}
            for name, metrics in SCORES.items()
        },
    }))
    return tmp_path / "scores"


def test_the_table_has_means_deviations_ranks_and_what_the_training_took(
    results, evaluation, tmp_path
):
    pages, file = tmp_path / "pages", tmp_path / "encoders.csv"
    pages.mkdir()
    page = pages / "a.md"
    page.write_text("before\n<!-- encoders: cifar -->\nold\n<!-- end of table -->\nafter\n")
    assert results.collect("cifar", evaluation, "a laptop", file) == 3
    assert results.collect("cifar", evaluation, "a laptop", file) == 3, "replaced, not added"
    assert results.write_tables(pages, file) == [page]
    assert results.write_tables(pages, file) == []
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.read_text().splitlines() if line.startswith("|")
    ]
    assert head[:3] == ["encoder", "epochs", "minutes"] and head[-1] == "mean rank"
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert list(cells) == ["TTE", "instance", "pixels"]
    assert cells["TTE"]["linear probe"] == "34.00 ± 2.83"
    assert (cells["TTE"]["epochs"], cells["TTE"]["minutes"]) == ("12", "2.0")
    assert cells["instance"]["epochs"] == cells["pixels"]["mean rank"] == ""
    ranks = [float(cells[name]["mean rank"]) for name in ("TTE", "instance")]
    assert sum(ranks) == pytest.approx(3) and ranks[0] < ranks[1]


def test_scores_of_another_folder_can_be_added(results, evaluation, tmp_path):
    file = tmp_path / "encoders.csv"
    results.collect("cifar", evaluation, "a laptop", file)
    before = results.read(file)
    found = json.loads((evaluation / "targets.json").read_text())
    found["targets"] = {"random:runs/TTE": found["targets"]["pixels"]}
    found["encoders"] = {"random:runs/TTE": "random:runs/TTE"}
    (evaluation / "targets.json").write_text(json.dumps(found))
    assert results.collect("cifar", evaluation, "a server", file, add=True) == 1
    rows = results.read(file)
    assert rows[: len(before)] == before
    assert {(row["encoder"], row["machine"]) for row in rows[len(before) :]} == {
        ("random", "a server")
    }


def test_encoders_of_the_same_last_name_are_told_apart(results, evaluation, tmp_path):
    file, names = tmp_path / "encoders.csv", ["a/seed0", "b/seed0", "random:a", "random:b"]
    found = json.loads((evaluation / "targets.json").read_text())
    found["targets"] = dict.fromkeys(names, found["targets"]["pixels"])
    found["encoders"] = {name: name for name in names}
    (evaluation / "targets.json").write_text(json.dumps(found))
    assert results.collect("cifar", evaluation, "a laptop", file) == 4
    assert list(dict.fromkeys(row["encoder"] for row in results.read(file))) == names


def test_a_table_that_cannot_be_written_stays_as_it_was(results, evaluation, tmp_path, monkeypatch):
    file = tmp_path / "encoders.csv"
    results.collect("cifar", evaluation, "a laptop", file)
    before = file.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        results.collect("other", evaluation, "a laptop", file)
    assert file.read_bytes() == before


def test_what_is_not_there_is_refused(results, tmp_path, capsys):
    assert results.main(["collect", "t", str(tmp_path)]) == 2
    assert "holds no targets.json" in capsys.readouterr().err


def test_the_tables_in_the_documentation_are_those_of_the_scores(results):
    rows = results.read()
    for page in (ROOT / "docs" / "results").glob("*.md"):
        assert results.with_tables(page.read_text(), rows) == page.read_text(), (
            f"{page}: run python benchmarks/evidence/encoder_results.py tables"
        )
