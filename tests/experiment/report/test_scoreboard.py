import pytest

from experiment.report.scoreboard import mean_ranks, summarized, table
from experiment.report.tables import WIDTH


class Target:
    """What a target task declares, as far as tables ask for it."""

    def __init__(self, explanation, ranked, **columns):
        self.explanation, self.ranked, self.columns = explanation, ranked, columns

    def columns_of(self, metrics):
        return {metric: title for metric, title in self.columns.items() if metric in metrics}

    def explain(self, metrics):
        return self.explanation


TARGETS = {
    "classification": Target(
        "Top-1", ("linear_probe", "fine_tuning_1", "fine_tuning_10"), linear_probe="linear probe",
        knn="k-NN", fine_tuning_1="tuned, 1 %", fine_tuning_10="tuned, 10 %",
    ),
    "detection": Target("Mean average precision", ("map_50",), map_50="mAP@0.5", map="COCO mAP"),
    "clustering": Target("k-means", ("nmi", "recall_1"), nmi="NMI"),
}


def figures(probe, tuned, found, nmi):
    return {
        "classification": {"linear_probe": probe, "fine_tuning_1": tuned, "knn": 1 - probe},
        "detection": {"map_50": found, "map": found / 2},
        "clustering": {"nmi": nmi},
    }


SUMMARY = summarized({
    "a": [figures(0.9, 0.5, 0.3, 0.8), figures(0.7, 0.5, 0.5, 0.8)],
    "b": [figures(0.6, 0.7, 0.4, 0.7), figures(0.8, 0.7, 0.4, 0.9)],
    "c": [figures(0.1, 0.9, 0.1, 0.1), figures(0.1, 0.9, 0.1, 0.2)],
    "pixels": [{"classification": {"linear_probe": 1.0, "fine_tuning_1": 1.0, "knn": 1.0}}] * 2,
})


def test_summary_has_mean_and_deviation():
    entry = SUMMARY["a"]["classification"]["linear_probe"]
    assert entry["values"] == [0.9, 0.7]
    assert (entry["mean"], entry["deviation"]) == pytest.approx((0.8, 0.02**0.5))


def test_ranks_by_hand():
    """Of those that have all targets; equal ones share a place, k-NN is no main figure."""
    ranks = mean_ranks(SUMMARY, TARGETS)
    assert list(ranks) == ["a", "b", "c"]
    assert ranks["a"] == pytest.approx(
        {"classification": (1 + 3) / 2, "detection": 1.5, "clustering": 1.5, "mean": 5 / 3}
    )
    assert ranks["b"] == pytest.approx(
        {"classification": (2 + 2) / 2, "detection": 1.5, "clustering": 1.5, "mean": 5 / 3}
    )
    assert ranks["c"] == pytest.approx(
        {"classification": (3 + 1) / 2, "detection": 3, "clustering": 3, "mean": 8 / 3}
    )
    assert mean_ranks({"a": SUMMARY["a"], "pixels": SUMMARY["pixels"]}, TARGETS) == {}
    rounded = {"a": figures(1, 1, 1, 1), "b": figures(1 - 1e-15, 1, 1, 1)}
    ranks = mean_ranks(summarized({name: [each] for name, each in rounded.items()}), TARGETS)
    assert ranks["a"] == ranks["b"]
    untuned = {"classification": {"linear_probe": {"mean": 1.0}}}
    tuned = {"classification": {**untuned["classification"], "fine_tuning_10": {"mean": 0.5}}}
    assert mean_ranks({"pixels": untuned, "a": tuned, "b": tuned}, TARGETS) == {
        "a": {"classification": 1.5, "mean": 1.5}, "b": {"classification": 1.5, "mean": 1.5}
    }


def test_table_has_all_figures_and_fits():
    text = table(SUMMARY, TARGETS)
    for part in ("80.00 ± 14.14", "mAP@0.5", "NMI", "Mean rank", "1.667", "2.667"):
        assert part in text
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "linear probe, tuned, 1 %; mAP@0.5; NMI." in " ".join(text.split())
    one = {name: {"clustering": each.get("clustering", {})} for name, each in SUMMARY.items()}
    assert "NMI" in table(one, TARGETS) and "Mean rank" not in table(one, TARGETS)
    two = table({name: SUMMARY[name] for name in ("a", "b")}, TARGETS)
    assert "Mean rank" not in two


def test_long_names_are_explained_before_the_tables():
    name = "TTE(tasks=rotation+instance, balance=none, regularizer=relational, ensemble=both)"
    text = table({name: SUMMARY["a"], "random": SUMMARY["b"]}, TARGETS)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert " ".join(text.split()).startswith(f"[1] {name} classification: Top-1")
    assert text.count("[1]") > 3 and "[2]" not in text
