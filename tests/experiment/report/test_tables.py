
from experiment.report import tables

ROWS = [
    {"method": "None", "top-1": 0.71234567, "images/s": 12345.6, "note": None},
    {"method": "SSKD_SVD", "top-1": 0.75, "images/s": 980.0, "worst": float("nan")},
]


def test_table_for_a_terminal():
    assert tables.table(ROWS) == (
        "method     top-1  images/s  note  worst\n"
        "--------  ------  --------  ----  -----\n"
        "None      0.7123     12346  -         -\n"
        "SSKD_SVD    0.75       980  -       nan"
    )


def test_wide_table_goes_on_below_with_its_first_column():
    rows = [{"method": name, **{f"column_number_{i}": i for i in range(9)}} for name in "ab"]
    blocks = tables.table(rows).split("\n\n")
    assert all(len(line) <= 80 for block in blocks for line in block.splitlines())
    assert all(block.startswith("method") for block in blocks)
    assert " ".join(blocks).count("column_number_") == 9


def test_one_row_is_a_list():
    assert tables.table([{"method": "FSP", "accuracy": 0.5}]) == "method    FSP\naccuracy  0.5"
    assert tables.table([]) == tables.markdown_table([]) == ""


def test_markdown():
    written = tables.markdown_table([{"a|b": "x", "n": 1}])
    assert written == "| a\\|b | n |\n| --- | ---: |\n| x | 1 |"
