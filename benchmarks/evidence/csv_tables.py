"""Rows in a CSV file, and the tables of the documentation that are made from them."""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment.run.folder import write_text
from registry import UserError

Rows = Iterable[Mapping[str, str]]


def read(path: Path) -> list[dict[str, str]]:
    """All rows, as text; none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def replace(
    path: Path,
    columns: Sequence[str],
    table: str,
    rows: Iterable[Mapping[str, Any]],
    run: Sequence[str] | None = None,
) -> None:
    """Put the rows of a table in place of those that the file has of it.

    Args:
        path: a CSV file, which need not exist.
        columns: of the file.
        table: whose rows they are.
        rows: its new rows.
        run: columns that say which run a row is of. Rows of the table's other runs stay. Default:
            none stay.
    """
    rows = [{key: as_text(value) for key, value in row.items()} for row in rows]
    new = {tuple(row[column] for column in run) for row in rows} if run else set()
    others = [
        row for row in read(path)
        if row["table"] != table or (run and tuple(row[column] for column in run) not in new)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*others, *rows])
    write_text(path, text.getvalue())  # entirely or not at all: the other rows are nowhere else


def as_text(value: Any) -> str:
    """A value as `read` gives it back."""
    return "" if value is None else str(value)


def with_tables(
    page: str, rows: Rows, mark: str, table_text: Callable[[Rows], str], source: str
) -> str:
    """A page's text with its tables as `rows` have them.

    Args:
        page: each table stands between ``<!-- MARK: TABLE -->`` and ``<!-- end of table -->``.
        rows: of all tables.
        mark: of the tables that are made of these rows.
        table_text: makes a table of its rows.
        source: the name of the rows' file, for the message.

    Raises:
        UserError: the page has a table of which there is no row, or that does not end.
    """
    rows = list(rows)
    begin, end = f"<!-- {mark}: ", "<!-- end of table -->"

    def replaced(match: re.Match) -> str:
        own = [row for row in rows if row["table"] == match[1]]
        if not own:
            raise UserError(f"{source} has no row of the table {match[1]!r}")
        return f"{begin}{match[1]} -->\n\n{table_text(own)}\n\n{end}"

    table = rf"{begin}(\w+) -->\n(?:(?!<!-- ).)*{end}"
    new, count = re.subn(table, replaced, page, flags=re.DOTALL)
    if count < page.count(begin):
        raise UserError(f"a page has {page.count(begin)} lines {begin}... and {count} of them end "
                        f"by a line {end}")
    return new


def write_tables(pages: Path, updated: Callable[[str], str]) -> list[Path]:
    """Bring the pages of a folder up to date by `updated`, which gives a page's new text; those
    that changed."""
    changed = []
    for page in sorted(pages.glob("*.md")):
        text = page.read_text()
        new = updated(text)
        if new != text:
            write_text(page, new)
            changed.append(page)
    return changed


def make_parser(description: str) -> tuple[argparse.ArgumentParser, Any]:
    """The parser of a script with the commands ``collect`` and ``tables``, and what takes more."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect")
    collecting.add_argument("table")
    collecting.add_argument("directory", type=Path)
    collecting.add_argument("--machine", default="", help="what it ran on, in words")
    collecting.add_argument(
        "--add", action="store_true", help="keep what the table has of other runs"
    )
    commands.add_parser("tables")
    return parser, commands
