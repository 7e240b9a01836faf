from experiment.report.evaluation import BiasEntry, bias_table
from experiment.report.tables import WIDTH
from experiment.run.folder import RunFolder


def test_a_bias_that_is_not_finite_can_be_shown_again(tmp_path):
    entry = {"bias": [float("inf"), 0.5], "multi": [0.25, 0.75], "single": [0.0, 0.5]}
    with RunFolder(tmp_path) as folder:
        folder.open({})
        folder.finish({"bias": {"several": {"rotation": entry}}})
    found = RunFolder(tmp_path).summary({"bias": dict[str, dict[str, BiasEntry]]})["bias"]
    assert found["several"]["rotation"]["bias"] == [None, 0.5]
    shown = [line.split() for line in bias_table(found).splitlines()]
    assert ["bias", "-"] in shown and ["loss,", "alone", "0.25", "±", "0.35"] in shown


def test_each_value_of_the_bias_stands_in_a_line_with_its_encoder_and_task():
    """Also where not all columns have room side by side."""
    entry = {"bias": [1.2345, 0.5], "multi": [1234.5, 0.75], "single": [1234.5, 0.5]}
    long = "runs/a_long_way/from_here/to/several/seed"
    names = [f"{long}0", f"{long}1", "x" * 28]
    tasks = ["reconstruction", "rotation"]
    shown = bias_table({name: dict.fromkeys(tasks, entry) for name in names})
    assert all(len(line) <= WIDTH for line in shown.splitlines())
    assert f"[1] {long}0\n[2] {long}1\n" in shown
    *_, first, second = shown.split("\n\n")
    for block in (first, second):
        keys = [line.partition("  ")[0] for line in block.splitlines()[2:]]
        assert keys == [f"{name}, {task}" for name in ("[1]", "[2]", "x" * 28) for task in tasks]
    assert "bias" in first and "loss, alone" in second
