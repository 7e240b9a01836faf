from experiment.report.evaluation import BiasEntry, bias_table
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
