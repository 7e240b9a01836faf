"""Tables and picture of the results come from results.csv, which comes from finished runs."""

import importlib
import json
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP1 = {  # by method and seed
    "None": {0: 0.30, 1: 0.32, 2: 0.31},
    "AT": {0: 0.33, 1: 0.34, 2: 0.36},
    "SSKD_SVD(num_dfv=4)": {0: 0.40, 1: 0.41, 2: 0.45},
}
SPEED = {"None": 900.0, "AT": 600.0, "SSKD_SVD(num_dfv=4)": 300.0}


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "evidence"))  # as for a script
    return importlib.import_module("results")


@pytest.fixture
def comparison(tmp_path):
    for method, by_seed in TOP1.items():
        for seed, top1 in by_seed.items():
            folder = tmp_path / "runs" / method.replace("(", "-").rstrip(")") / f"seed{seed}"
            folder.mkdir(parents=True)
            (folder / "summary.json").write_text(json.dumps({
                "method": method, "seed": seed, "student_top1_last": top1,
                "student_top1_best": None, "student_top5_last": 0.7, "teacher_top1": 0.67,
                "agreement": 0.4, "images_per_second": SPEED[method], "seconds": 10.0,
                "parameters": 77_000, "flops": 12_000_000,
                "settings": {"dataset": "npz:/somewhere/images.npz", "epochs": 20, "net": "ResNet"},
            }))
    return tmp_path / "runs"


def collected(results, comparison, tmp_path):
    file = tmp_path / "results.csv"
    assert results.collect("small", comparison, "a machine", file) == 9
    return file


def test_collecting_replaces_a_tables_rows_and_keeps_the_others(results, comparison, tmp_path):
    file = collected(results, comparison, tmp_path)
    results.collect("other", comparison, "", file)
    assert results.collect("small", comparison, "a machine", file) == 9
    rows = results.read(file)
    assert sorted(row["table"] for row in rows) == ["other"] * 9 + ["small"] * 9
    assert {row["dataset"] for row in rows} == {"npz:images.npz"}
    assert float(rows[-1]["top1_last"]) in TOP1[rows[-1]["method"]].values()
    with pytest.raises(results.UserError, match="holds no finished run"):
        results.collect("small", tmp_path / "none", "", file)


def test_runs_of_another_folder_can_be_added(results, comparison, tmp_path):
    file = collected(results, comparison, tmp_path)
    other = tmp_path / "other"
    for method, seed, top1 in (("AT", 3, 0.35), ("AT", 2, 0.37)):  # new, and run again
        folder = other / "AT" / f"seed{seed}"
        folder.mkdir(parents=True)
        run = json.loads((comparison / "AT" / "seed2" / "summary.json").read_text())
        run.update(method=method, seed=seed, student_top1_last=top1)
        (folder / "summary.json").write_text(json.dumps(run))
    assert results.collect("small", other, "another machine", file, add=True) == 2
    found = {(row["method"], row["seed"]): row for row in results.read(file)}
    assert len(found) == len(results.read(file)) == 10
    assert [found["AT", seed]["top1_last"] for seed in "0123"] == ["0.33", "0.34", "0.37", "0.35"]
    assert found["AT", "1"]["machine"] == "a machine"
    assert found["AT", "2"]["machine"] == "another machine"


def test_runs_of_another_recipe_are_not_added(results, comparison, tmp_path):
    file = collected(results, comparison, tmp_path)
    before = file.read_bytes()
    summary = comparison / "AT" / "seed1" / "summary.json"
    run = json.loads(summary.read_text())
    run["settings"]["epochs"] = 60
    summary.write_text(json.dumps(run))
    with pytest.raises(results.UserError, match="AT, seed 1, has epochs 60.* AT has 20"):
        results.collect("small", comparison, "", file, add=True)
    assert file.read_bytes() == before


def test_a_table_has_the_gains_by_seed_and_their_standard_errors(results, comparison, tmp_path):
    text = results.table_text(results.read(collected(results, comparison, tmp_path)))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    columns = lines[0]
    by_method = {line[0]: dict(zip(columns, line, strict=True)) for line in lines[2:]}
    assert list(by_method) == ["None", "SSKD_SVD(num_dfv=4)", "AT"]  # the largest gain first
    gains = [0.10, 0.09, 0.14]
    best = by_method["SSKD_SVD(num_dfv=4)"]
    assert best["gain"] == "+11.00 ± 2.65"
    errors = statistics.fmean(gains) / (statistics.stdev(gains) / 3**0.5)
    assert float(best["gain / standard error"]) == pytest.approx(errors, abs=0.05)
    assert best["step cost"] == "3.00 x" and best["n"] == "3"
    assert by_method["None"]["last epoch"] == "31.00 ± 1.00"


def test_costs_that_were_measured_beside_each_other_count(
    results, comparison, tmp_path, monkeypatch
):
    """And not the speeds of runs, which had other load; the two are not mixed in a table."""
    file, costs = collected(results, comparison, tmp_path), tmp_path / "costs.csv"
    lines = ["table,method,milliseconds,step_cost,machine", "small,None,100,1.000,",
             "small,AT,170,1.700,", "other,SSKD_SVD(num_dfv=4),9,9.000,"]
    costs.write_text("\n".join(lines))
    text = results.table_text(results.read(file), costs)
    assert "| 1.50 x |" in text and "| 3.00 x |" in text
    costs.write_text("\n".join([*lines, "small,SSKD_SVD(num_dfv=4),290,2.900,"]))
    text = results.table_text(results.read(file), costs)
    assert "| 1.70 x |" in text and "| 2.90 x |" in text
    shown = {}
    scatter = importlib.import_module("experiment.report.scatter")
    monkeypatch.setattr(scatter, "scatter", lambda points, path, **_: shown.update(points))
    results.draw("small", tmp_path / "gain.png", file, costs)
    assert {name: cost for name, (cost, *_) in shown.items()} == {
        "AT": 1.7, "SSKD_SVD(num_dfv=4)": 2.9
    }


def test_a_page_gets_its_tables(results, comparison, tmp_path):
    rows = results.read(collected(results, comparison, tmp_path))
    page = "before\n<!-- table: small -->\nold\n<!-- end of table -->\nafter\n"
    new = results.with_tables(page, rows)
    assert new.startswith("before\n") and new.endswith("\nafter\n") and "old" not in new
    assert "+11.00 ± 2.65" in new and results.with_tables(new, rows) == new
    with pytest.raises(results.UserError, match="no row of the table 'small'"):
        results.with_tables(page, [])
    assert results.with_tables(page.replace("old\n", ""), rows) == new, "nothing between the lines"
    for other in (page.replace("<!-- end of table -->", ""), page.split("old")[0] + page):
        with pytest.raises(results.UserError, match="lines <!-- table: ... and"):
            results.with_tables(other, rows)


def test_the_tables_in_the_documentation_are_those_of_the_results(results):
    rows = results.read()
    for page in (ROOT / "docs" / "results").glob("*.md"):
        assert results.with_tables(page.read_text(), rows) == page.read_text(), (
            f"{page}: run python benchmarks/evidence/results.py tables"
        )


def test_the_picture_shows_gain_against_cost(results, comparison, tmp_path, monkeypatch):
    shown = {}
    scatter = importlib.import_module("experiment.report.scatter")
    monkeypatch.setattr(scatter, "scatter", lambda points, path, **_: shown.update(points))
    file = collected(results, comparison, tmp_path)
    results.draw("small", tmp_path / "gain.png", file)
    cost, gain, deviation = shown["AT"]
    assert (cost, gain) == pytest.approx((1.5, 100 * statistics.fmean([0.03, 0.02, 0.05])))
    assert deviation == pytest.approx(100 * statistics.stdev([0.03, 0.02, 0.05]))
    with pytest.raises(results.UserError, match="no row of the table 'else'"):
        results.draw("else", tmp_path / "gain.png", file)
