"""The pages that are made from the sources say what the code does.

The sources are parsed when the documentation is built, and imported here: two ways to one answer.
"""

import inspect
import re
from pathlib import Path

import pytest

import distillers
from docs import reference_pages
from plugins import option
from tests.test_structure import LIBRARY, MAY_IMPORT

ROOT = Path(__file__).parents[1]
METHODS = {name: method for method in reference_pages.methods() for name in method.names}


def test_every_method_has_a_page_under_its_own_name():
    assert set(METHODS) == set(distillers.names())
    assert all(distillers.get(name).name == method.name for name, method in METHODS.items())
    pages = reference_pages.pages()
    assert {f"methods/{method.name}.md" for method in METHODS.values()} <= set(pages)
    assert all(f"]({method.name}.md)" in pages["methods/index.md"] for method in METHODS.values())


@pytest.mark.parametrize("name", METHODS)
def test_hyper_parameters_and_their_defaults_are_those_of_the_method(name):
    page = reference_pages.method_page(METHODS[name])
    rows = re.findall(r"^\| `(\w+)` \| `[^`]+` \| (.*?) \| .*? \| (.+) \|$", page, re.MULTILINE)
    defaults = {key: default.strip("`") for key, default, _ in rows}
    settings = distillers.get(name)().settings()
    assert defaults == {key: "" if v in (None, ()) else str(v) for key, v in settings.items()}
    assert all(about.strip() for _, _, about in rows), "each is described under Args:"


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_compares_is_what_it_reads(name):
    method = distillers.get(name)()
    kinds = [type(reading) for reading in method.readings] if method.needs_teacher else []
    expected = [
        next(called for known, called in reference_pages.READINGS.items()
             if known in [each.__name__ for each in kind.__mro__])
        for kind in kinds
    ]
    depends = isinstance(inspect.getattr_static(distillers.get(name), "reads"), property)
    found = METHODS[name].reads
    assert set(expected) <= set(found) if depends else expected == found


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_where_it_is_from_and_how_it_is_computed(name):
    method, page = METHODS[name], reference_pages.method_page(METHODS[name])
    assert method.summary and method.text and method.paper
    assert (ROOT / method.file).read_text() in page
    if distillers.get(name).needs_teacher and not re.search(r"\[`\w+`\]\(\w+\.md\)", page):
        assert method.formulas, "the formula is in the docstring of a public function or of `loss`"
    for paragraph in re.findall(r"Departures?:.*", distillers.get(name).__doc__ or ""):
        assert method.departures and paragraph[:40] in page


def test_every_setting_has_its_row_in_the_table_of_flags():
    page = reference_pages.pages()["reference/flags.md"]
    for command, settings in reference_pages.SETTINGS.items():
        section = page.partition(f"\n## {command}\n")[2].partition("\n## ")[0]
        fields = {name for name, field in settings.__dataclass_fields__.items() if field.metadata}
        assert len(fields) > 5
        assert set(re.findall(r"^\| `--(\w+)` \|", section, re.MULTILINE)) == fields


def test_every_module_has_its_place_in_the_reference():
    assert set(reference_pages.PACKAGES) | set(reference_pages.MODULES) >= LIBRARY
    pages = reference_pages.pages()
    for package in reference_pages.PACKAGES:
        assert f"\n::: {package}." in pages[f"reference/{package}.md"]


@pytest.mark.parametrize(("declared", "words"), [
    (option(1, minimum=1), "at least 1"), (option(0.5, minimum=0, maximum=1), "0 to 1"),
    (option("x", choices=("x", "y")), "`x`, `y`"), (option(1.0, above=0), "above 0"),
    (option(1.0, above=0, maximum=2), "above 0, at most 2"), (option(True), ""),
])
def test_ranges_and_choices_are_put_in_words(declared, words):
    assert reference_pages.allowed(declared.metadata) == words


def test_a_docstring_ends_at_its_first_section():
    text = """One line.

    More, with ``Args:`` in it.

    Args:
        a: of no interest.
    """
    assert reference_pages.without_sections(text) == "One line.\n\nMore, with ``Args:`` in it."
    assert reference_pages.without_sections("Args:\n    a: b.") == ""


def test_a_table_escapes_what_would_divide_a_cell():
    made = reference_pages.table(["a", "b"], [["x | y", "`p|q` and\n |r|"]])
    assert made.splitlines()[2] == r"| x \| y | `p|q` and \|r\| |"


def test_the_layout_that_contributors_read_is_the_one_that_is_enforced():
    layout = (ROOT / "CONTRIBUTING.md").read_text().partition("\n## Layout\n")[2]
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \| .* \| (.*) \|$", layout, re.MULTILINE)
    told = {part: set(re.findall(r"`(\w+)`", parts)) for part, parts in rows if part != "docs"}
    assert told.pop("settings") == {"targets"}, "all but"
    assert MAY_IMPORT["settings"] <= LIBRARY - {"settings", "targets"}
    assert told == {part: parts for part, parts in MAY_IMPORT.items() if part != "settings"}
