"""Tables for the terminal and for Markdown."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WIDTH = 80
_GAP = "  "
_LONGEST_NAME = 40  # in a column


def wrapped(row: Mapping[str, Any]) -> str:
    """One line per value, wrapped at 80 columns."""
    indent = " " * (max(map(len, row)) + len(_GAP))
    return "\n".join(fill(line, subsequent_indent=indent) for line in table([row]).splitlines())


def fill(text: str, **indents: str) -> str:
    """Wrap `text` at 80 columns without breaking paths and names."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False, **indents)


def _text(value: Any) -> str:
    """The text of a cell. Numbers have four significant digits; None becomes ``-``."""
    if value is None:
        return "-"
    if isinstance(value, (float, np.floating)):
        if not math.isfinite(value):
            return str(value)
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(entry) for entry in value)
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def labels(names: Sequence[str]) -> dict[str, str]:
    """A label for each name: the name itself, or ``[number]`` if it is too long for a table."""
    long = [name for name in names if len(name) > _LONGEST_NAME]
    return {name: f"[{long.index(name) + 1}]" if name in long else name for name in names}


def legend(labels: Mapping[str, str]) -> list[str]:
    """Lines, after an empty one, that say which name each ``[number]`` of `labels` stands for; none
    where there is no such label."""
    return [
        textwrap.fill(
            f"{label} {name}", WIDTH, initial_indent="\n" if label == "[1]" else "",
            subsequent_indent="    ", break_on_hyphens=False,
        )
        for name, label in labels.items() if label != name
    ]


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of all rows, in order of first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def is_numeric(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    """Whether a column has only numbers, which are right-aligned."""
    values = [row[column] for row in rows if row.get(column) is not None]
    return bool(values) and all(_is_number(value) for value in values)


def _block(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    texts = {column: [_text(row.get(column)) for row in rows] for column in columns}
    widths = {column: max(map(len, [column, *texts[column]])) for column in columns}
    right = {column: is_numeric(rows, column) for column in columns}

    def line(cells: Sequence[str]) -> str:
        return _GAP.join(
            cell.rjust(widths[column]) if right[column] else cell.ljust(widths[column])
            for column, cell in zip(columns, cells, strict=True)
        ).rstrip()

    rule = _GAP.join("-" * widths[column] for column in columns)
    body = [line([texts[column][place] for column in columns]) for place in range(len(rows))]
    return "\n".join([line(columns), rule, *body])


def _blocks(rows: Sequence[Mapping[str, Any]], columns: list[str]) -> list[list[str]]:
    """Split `columns` into groups that fit the width. Each group begins with the first column."""
    widths = {
        column: max(len(column), *(len(_text(row.get(column))) for row in rows))
        for column in columns
    }
    first, *others = columns
    groups = [[first]]
    room = WIDTH - widths[first]
    for column in others:
        need = len(_GAP) + widths[column]
        if need > room and len(groups[-1]) > 1:
            groups.append([first])
            room = WIDTH - widths[first]
        groups[-1].append(column)
        room -= need
    return groups


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A plain text table for a terminal of 80 columns.

    Columns appear in the order of their first occurrence. Those that do not fit go below, after
    the first column again. A single row becomes a list of ``name  value``.

    Args:
        rows: one dict per row.
    """
    if not rows:
        return ""
    columns = columns_of(rows)
    if len(rows) == 1:
        width = max(map(len, columns))
        return "\n".join(f"{name.ljust(width)}{_GAP}{_text(rows[0][name])}" for name in columns)
    return "\n\n".join(_block(rows, group) for group in _blocks(rows, columns))


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same table in Markdown, of any width."""
    if not rows:
        return ""
    columns = columns_of(rows)

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---:" if is_numeric(rows, column) else "---" for column in columns]
    return "\n".join(
        [line(columns), line(rule)]
        + [line([_text(row.get(column)) for column in columns]) for row in rows]
    )
