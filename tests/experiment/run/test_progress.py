import io

import pytest

from experiment.run import progress
from experiment.run.progress import Progress, wrap_line

LOGS = {"loss": 2.4, "main_loss": 2.31, "distillation_loss": 0.0123456, "accuracy": 0.4125,
        "top5": 0.7, "val_accuracy": 0.4, "val_main_loss": 2.5}


@pytest.fixture
def now(monkeypatch):
    """The time, in a list, in front of a terminal of 80 columns."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("COLUMNS", "80")
    return now


def test_bar_fits_80_columns_and_shows_loss_parts_accuracy_and_speed(now):
    stream = io.StringIO()
    bar = Progress("", 240, 100, 12800, "bar", stream)
    bar.begin(2, 20)
    now[0] += 10
    assert bar.wants_logs()
    bar.step(2, 45, {key: LOGS[key] for key in LOGS if not key.startswith("val_")})
    assert not bar.wants_logs()
    line = stream.getvalue()
    # 25 steps of 128 images took 10 s; there is no room for the time that is left
    expected = "\r  3/240  45%  accuracy 0.412  main 2.31  distillation 0.0123  320 images/s"
    assert line.rstrip() == expected and len(line) == 80
    stream.truncate(stream.seek(0))
    bar.end(2, LOGS, 3120.4)
    assert stream.getvalue().rstrip() == (
        "\r  3/240 accuracy 0.412 val 0.400 main 2.31 distillation 0.0123 3120 images/s"
    )
    stream.truncate(stream.seek(0))
    bar.step(2, 45, {"loss": 1234.5})
    assert stream.getvalue().rstrip() == "\r  3/240  45%  loss 1234  320 images/s  2:38:22 left"


def test_losses_for_which_there_is_no_room_are_not_passed_over_in_silence(now):
    stream = io.StringIO()
    bar = Progress("pre-train", 25, 100, 6400, "bar", stream)
    bar.begin(2, 0)
    now[0] += 10
    tasks = ("rotation", "jigsaw", "reconstruction", "instance", "ensemble", "regularizer")
    bar.step(2, 50, {"loss": 2.0, **{f"{task}_loss": 1.0 for task in tasks}})
    assert stream.getvalue().rstrip() == (
        "\rpre-train  3/25  50%  loss 2.00  ensemble 1.00  ...  320 images/s  7:30 left"
    )


def test_line_an_epoch_where_there_is_no_terminal(now):
    stream = io.StringIO()
    lines = Progress("hint", 9, 10, 100, "auto", stream)
    lines.begin(0, 4)  # the epoch of a run that goes on says nothing of the others
    assert not lines.wants_logs()
    lines.end(0, {"loss": 3e-7, "val_accuracy": 1.0}, 50.0)
    assert stream.getvalue() == "hint 1/9  val 1.00  loss 3.0e-07  50 images/s\n"
    lines.begin(1, 0)
    now[0] += 20
    lines.end(1, {"loss": 3e-7}, 50.0)
    assert stream.getvalue().endswith("\nhint 2/9  loss 3.0e-07  50 images/s  2:20 left\n")
    lines.end(8, {"loss": 3e-7}, 50.0)
    assert stream.getvalue().endswith("\nhint 9/9  loss 3.0e-07  50 images/s\n")
    with pytest.raises(ValueError, match="expected auto"):
        Progress("", 1, 1, 1, "loud")


def test_the_time_left_does_not_count_what_is_compiled_in_the_first_step_and_validation(now):
    stream = io.StringIO()
    lines = Progress("", 5, 10, 100, "line", stream)
    lines.begin(0, 0)
    lines.begin_step(0)
    now[0] += 60  # compiled
    for step in range(1, 10):
        lines.begin_step(step)
        now[0] += 1
    lines.end_steps()
    now[0] += 30  # validation is compiled
    lines.end(0, {"loss": 1.0}, 1.0)
    assert stream.getvalue().endswith("1 images/s  0:40 left\n")
    lines.begin(1, 0)
    for step in range(10):
        lines.begin_step(step)
        now[0] += 1
    lines.end_steps()
    now[0] += 2
    lines.end(1, {"loss": 1.0}, 10.0)
    assert stream.getvalue().endswith("10 images/s  0:36 left\n")

    lines = Progress("", 5, 1, 10, "line", stream)  # an epoch of one step tells nothing
    lines.begin(0, 0)
    lines.begin_step(0)
    now[0] += 60
    lines.end_steps()
    lines.end(0, {"loss": 1.0}, 1.0)
    assert stream.getvalue().endswith("1/5  loss 1.00  1 images/s\n")


def test_a_line_that_is_too_long_goes_on_below():
    parts = [f"metric{number} 0.123" for number in range(12)]
    lines = wrap_line(parts).splitlines()
    assert len(lines) > 1 and all(len(line) <= 80 for line in lines)
    assert [part for line in lines for part in line.strip().split("  ")] == parts
    assert wrap_line(["a", "b 1"]) == "a  b 1"
