"""Which files are kept, and what the card says of them; converting and measuring are made up."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.image import imread

from experiment.export import card, files
from experiment.export.files import Images, Network, check_rows, write_files
from experiment.export.format import FORMATS, UnfitError
from experiment.export.measurement import Measured, seconds_of
from experiment.run.folder import RunFolder
from nets import Standardize, count_flops, count_parameters
from registry import UserError
from tests.experiment.export.networks import DEVIATION, MEAN, NAMES, images, student

TIMES = {(1, 1): 0.5, (1, 2): 0.3, (32, 1): 12.5, (32, 2): 7.0}
TEST = images(10)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """``written(**answers)``: the rows and the folder after an export in which each file answers
    as its array says. A format with an error in place of an array cannot be written."""
    network = Network(student(), Standardize(MEAN, DEVIATION), NAMES)
    other = dataclasses.replace(network, has_classes=False)
    reference = files.predict(network, TEST)

    def write(min_agreement=0.9, teacher_has_classes=True, **answers):
        def convert(form, folder, path):
            assert folder.name == "student-material" and (folder / "student.keras").exists()
            if isinstance(answers.get(form.name), Exception):
                raise answers[form.name]
            path.write_bytes(b"x" * 1234)

        def measure(entries, path, work):
            assert np.load(path).dtype == "uint8"
            return {
                entry.label: Measured(answers.get(entry.label, reference), TIMES)
                for entry in entries
            }

        monkeypatch.setattr(files, "convert", convert)
        monkeypatch.setattr(files, "measure", measure)
        with RunFolder(tmp_path / "run") as folder:
            folder.open({})
            rows = write_files(
                [FORMATS.get("litert")(), FORMATS.get("litert-int8")()],
                {"teacher": network if teacher_has_classes else other, "student": network},
                Images(TEST, reference.argmax(1)), folder, min_agreement,
            )
            card.write_card("run: data", rows, card.conditions(10), folder)
        return rows, tmp_path / "run"

    write.reference = reference
    return write


def test_the_reference_is_computed_in_float32():
    """TensorFloat-32 of a GPU would move probabilities by more than the files' tolerance."""
    config = tf.config.experimental
    seen = []

    class Watched:
        def __call__(self, image, training):
            seen.append(config.tensor_float_32_execution_enabled())
            if len(seen) == 3:
                raise ZeroDivisionError
            return tf.zeros([len(image), 2])

    network = Network(Watched(), Standardize(MEAN, DEVIATION), ("a", "b"))
    assert config.tensor_float_32_execution_enabled()
    files.predict(network, TEST, batch=5)
    with pytest.raises(ZeroDivisionError):
        files.predict(network, TEST)
    assert seen == [False] * 3 and config.tensor_float_32_execution_enabled()


def test_files_that_answer_as_the_student_are_kept(written):
    rows, folder = written()
    check_rows(rows)
    assert [row.name for row in rows] == ["teacher", "student", "litert", "litert-int8"]
    for row in rows:
        assert (row.top1, row.agreement, row.difference, row.failure) == (1, 1, 0, None)
        assert row.parameters == count_parameters(student())
        assert row.multiply_adds == count_flops(student()) / 2
    assert rows[2].bytes == 1234 == (folder / "student.tflite").stat().st_size
    stated = json.loads((folder / "card.json").read_text())
    assert stated["images"] == 10 and stated["rows"][3]["file"] == "student-int8.tflite"
    assert {"images": 32, "threads": 2, "milliseconds": 7.0} in stated["rows"][0]["times"]
    text = (folder / "card.md").read_text()
    assert "| litert-int8 | 100.00 | 100.00 | 1 |" in text and "12.50" in text
    assert imread(folder / "card.png").std() > 0.05


def test_a_file_that_answers_otherwise_is_removed_also_an_older_one(written):
    written()
    other = written.reference.copy()
    other[:2] = np.roll(other[:2], 1, axis=1)  # two of ten images in another class
    rows, folder = written(min_agreement=0.85, **{"litert-int8": other})
    assert [row.failure is None for row in rows] == [True, True, True, False]
    assert (folder / "student.tflite").exists()
    assert not (folder / "student-int8.tflite").exists()
    text = (folder / "card.md").read_text()
    assert "litert-int8 failed and is not kept: it puts 80.00 %" in text
    with pytest.raises(UserError, match=(
        r"litert-int8 puts 80.00 % of the images into the student's class, less than 85 % "
        r"\(--min_agreement 0.85\); kept: student.tflite; not kept: student-int8.tflite"
    )):
        check_rows(rows)
    assert all(row.failure is None for row in written(0.75, **{"litert-int8": other})[0])


def test_a_format_that_cannot_be_written_leaves_the_others(written):
    written()
    refused = UnfitError("litert: LiteRT has no built-in kernel for Erfinv: use other layers")
    rows, folder = written(litert=refused)
    assert [row.name for row in rows] == ["teacher", "student", "litert", "litert-int8"]
    assert not (folder / "student.tflite").exists()  # an older one neither
    assert (folder / "student-int8.tflite").exists() and rows[3].agreement == 1
    assert (rows[2].bytes, rows[2].top1, rows[2].milliseconds) == (None, None, {})
    text = (folder / "card.md").read_text()
    assert "| litert (failed) | - | - | - |" in text
    assert "it could not be written (LiteRT has no built-in kernel for Erfinv" in text
    assert json.loads((folder / "card.json").read_text())["rows"][2]["failure"]
    assert imread(folder / "card.png").std() > 0.05
    with pytest.raises(UserError, match=(
        r"litert could not be written \(LiteRT has no .*use other layers\); "
        r"kept: student-int8.tflite; not kept: student.tflite"
    )):
        check_rows(rows)


def test_after_a_passing_failure_the_file_of_an_earlier_export_is_kept(written):
    """As where the converter is killed for memory: it may do better another time."""
    killed = UserError("converting to litert failed, its process ended by SIGKILL")
    rows, folder = written(litert=killed)
    assert not rows[2].is_earlier and "earlier" not in rows[2].failure
    written()
    rows, folder = written(litert=killed)
    assert (folder / "student.tflite").exists() and rows[2].bytes is None
    assert rows[2].failure.endswith(
        "by SIGKILL), so that student.tflite is still that of an earlier export"
    )
    assert "litert failed: it could not be written" in (folder / "card.md").read_text()
    with pytest.raises(UserError, match="kept: student-int8.tflite; not kept: no file"):
        check_rows(rows)


def test_where_no_format_can_be_written_there_is_still_a_card(written):
    rows, folder = written(litert=UserError("no"), **{"litert-int8": UserError("neither")})
    assert (folder / "card.md").exists() and [row.bytes is None for row in rows[2:]] == [True] * 2
    with pytest.raises(UserError, match="kept: no file; not kept: student.tflite, student-int8"):
        check_rows(rows)


@pytest.mark.parametrize("answers", [{"agreement": 0.5}, {"agreement": 1.0, "difference": 0.3}])
def test_the_copy_of_quantisation_aware_training_is_named_as_what_a_file_differs_from(answers):
    row = dataclasses.replace(
        card.Row("litert-qat", None, 1.0, 1.0, 0.0, 1, 1, 1, {}), **answers
    )
    form = FORMATS.get("litert-qat")()
    reason = files._failure(form, row, min_agreement=0.9, narrow=False)
    assert (reason is None) == ("difference" in answers)  # int8 is compared by classes alone
    if reason:
        assert reason == (
            "puts 50.00 % of the images into the quantised copy's class, less than 90 % "
            "(--min_agreement 0.9)"
        )


def test_a_float_file_has_to_give_the_students_probabilities_too(written):
    near = 0.98 * written.reference + 0.02 / 4
    rows, folder = written(litert=near, **{"litert-int8": near})
    assert rows[2].agreement == rows[3].agreement == 1
    assert "differs from the student's by" in rows[2].failure and rows[3].failure is None
    assert not (folder / "student.tflite").exists()


def test_what_is_no_number_is_no_answer(written):
    rows, _ = written(**{"litert-int8": np.full_like(written.reference, np.nan)})
    assert (rows[3].top1, rows[3].agreement) == (0, 0) and rows[3].failure


def test_a_teacher_that_cannot_be_written_costs_its_row_only(written, monkeypatch, capsys):
    makes, made = files.KerasFile.convert, []

    def convert(form, material, path):
        made.append(path.stem)
        if path.stem == "teacher":
            raise UserError("the teacher cannot be copied")
        makes(form, material, path)

    monkeypatch.setattr(files.KerasFile, "convert", convert)
    rows, folder = written()
    assert made == ["teacher", "student"]
    assert [row.name for row in rows] == ["student", "litert", "litert-int8"]
    assert (folder / "student.tflite").exists()
    said = capsys.readouterr().out
    assert "the card has no row for the teacher: the teacher cannot be copied" in said


def test_a_teacher_of_other_classes_has_no_score(written):
    rows, folder = written(teacher=np.zeros((10, 7)))
    assert rows[0].top1 is None and rows[0].failure is None
    assert "| teacher | - | - |" in (folder / "card.md").read_text()


def test_a_teacher_of_as_many_other_classes_has_no_score_either(written):
    rows, _ = written(teacher_has_classes=False)
    assert [row.top1 for row in rows] == [None, 1, 1, 1]
    assert (rows[0].agreement, rows[0].difference, rows[0].failure) == (None, None, None)


def test_operations_that_cannot_be_counted_have_no_number(written, monkeypatch):
    monkeypatch.setattr(files, "known_flops", lambda model, size: None)
    rows, folder = written()
    assert {row.multiply_adds for row in rows} == {None}
    cells = (folder / "card.md").read_text().splitlines()[4].split(" | ")
    assert cells[5] == "-" and "multiply-adds" in (folder / "card.md").read_text()


@pytest.mark.parametrize(
    ("seconds", "calls"),
    [
        ([1.0, 1.0, 0.25, 0.5, 0.25], 5),  # at least five,
        ([0.25, 0.25, 0.25, 0.5, 0.25, 0.625], 6),  # for two seconds,
        ([1 / 64] * 30 + [1 / 16] * 20, 50),  # at most fifty
    ],
)
def test_times_are_medians_of_calls(monkeypatch, seconds, calls):
    """After two calls that are not counted, however long they take."""
    clock, batches = [7.0], []

    def predict(batch):
        counted = len(batches) - 2
        clock[0] += seconds[counted] if counted >= 0 else 100.0
        batches.append(batch)

    monkeypatch.setattr("experiment.export.measurement.time.perf_counter", lambda: clock[0])
    assert seconds_of(predict, TEST[:1]) == pytest.approx(np.median(seconds[:calls]))
    assert len(batches) == calls + 2
    assert all(batch is batches[0] for batch in batches)
