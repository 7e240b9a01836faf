import numpy as np
import pytest
from matplotlib.image import imread

from experiment import report

ROWS = [
    {"method": "None", "top-1": 0.71234567, "images/s": 12345.6, "note": None},
    {"method": "SSKD_SVD", "top-1": 0.75, "images/s": 980.0, "worst": float("nan")},
]


def test_table_for_a_terminal():
    assert report.table(ROWS) == (
        "method     top-1  images/s  note  worst\n"
        "--------  ------  --------  ----  -----\n"
        "None      0.7123     12346  -         -\n"
        "SSKD_SVD    0.75       980  -       nan"
    )


def test_wide_table_goes_on_below_with_its_first_column():
    rows = [{"method": name, **{f"column_number_{i}": i for i in range(9)}} for name in "ab"]
    blocks = report.table(rows).split("\n\n")
    assert all(len(line) <= 80 for block in blocks for line in block.splitlines())
    assert all(block.startswith("method") for block in blocks)
    assert " ".join(blocks).count("column_number_") == 9


def test_one_row_is_a_list():
    assert report.table([{"method": "FSP", "accuracy": 0.5}]) == "method    FSP\naccuracy  0.5"
    assert report.table([]) == report.markdown_table([]) == ""


def test_markdown():
    written = report.markdown_table([{"a|b": "x", "n": 1}])
    assert written == "| a\\|b | n |\n| --- | ---: |\n| x | 1 |"


def history(epochs):
    return [
        {
            "epoch": epoch, "stage": "hint" if epoch < 8 else "distil",
            "main_loss": 4.6 / epoch**0.5, "distillation_loss": 0.3 / epoch**1.5,
            "accuracy": 1 - 0.9 / epoch, "val_accuracy": 0.9 - 0.8 / epoch,
            "top5": 1 - 0.5 / epoch, "clip_share": 0.5 + 0.4 * np.sin(epoch),
            "learning_rate": 0.1 * 0.5 ** (epoch // 6), "seconds": 3.0,
        }
        for epoch in range(1, epochs + 1)
    ]


@pytest.mark.parametrize("epochs", [1, 20])
def test_curves(tmp_path, epochs):
    report.curves(history(epochs), tmp_path / "curves.png")
    picture = imread(tmp_path / "curves.png")
    assert picture.shape[0] > 500 and picture.std() > 0.02
    report.curves([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_curves_of_given_panels(tmp_path):
    """A panel for each title of which there is a column, two side by side."""
    rows = [{"epoch": epoch, "a": epoch, "val_b": 1 / epoch} for epoch in (1, 2, 3)]
    shapes = []
    for panels in ({"one": ["a"]}, {"one": ["a"], "two": ["b", "c"], "three": ["c"]}):
        report.curves(rows, tmp_path / "curves.png", panels)
        shapes.append(imread(tmp_path / "curves.png").shape)
    assert shapes[1][:2] == (shapes[0][0], 2 * shapes[0][1])
    report.curves(rows, tmp_path / "none.png", {"three": ["c"]})
    assert not (tmp_path / "none.png").exists()


def test_vector_maps_show_the_sign(tmp_path):
    """The first map is positive on the left and negative on the right: red there, blue here."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    sizes = (16, 8, 4)

    def maps():
        return [[random.normal(size=(size, size)) for size in sizes] for _ in images]

    teacher, student = maps(), maps()
    for row in teacher:
        row[0] = np.where(np.arange(16) < 8, 1.0, -1.0) * np.ones((16, 1))
    report.vector_maps(images, teacher, student, tmp_path / "maps.png")
    picture = imread(tmp_path / "maps.png")[..., :3]
    red, blue = np.array([[0x67, 0, 0x1F], [0x05, 0x30, 0x61]]) / 255
    is_red = np.abs(picture - red).sum(-1) < 0.05
    is_blue = np.abs(picture - blue).sum(-1) < 0.05
    assert is_red.sum() > 1000
    assert np.nonzero(is_red)[1].mean() < np.nonzero(is_blue)[1].mean()
    report.vector_maps(images[:1, ..., :1], teacher[:1], student[:1], tmp_path / "one.png", "abc")
    with pytest.raises(ValueError, match="expected as many"):
        report.vector_maps(images[:2], teacher, student, tmp_path / "x.png")
