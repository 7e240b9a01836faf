"""The pages that are made from the sources say what the sources do.

The sources are parsed when the documentation is built, and imported here: two ways to one answer.
"""

import ast
import re
from pathlib import Path

import pytest

import distillers
import settings.distillation
import settings.evaluation
import settings.pretraining
from docs import reference_pages, sources
from tests.test_structure import LIBRARY

ROOT = Path(__file__).parents[1]
METHODS = {name: method for method in sources.methods() for name in method.names}


def test_every_method_has_a_page_under_its_own_name():
    assert set(METHODS) == set(distillers.names())
    assert all(distillers.get(name).name == method.name for name, method in METHODS.items())
    pages = reference_pages.pages()
    assert {f"methods/{method.name}.md" for method in METHODS.values()} <= set(pages)
    assert all(f"]({method.name}.md)" in pages["methods/index.md"] for method in METHODS.values())


@pytest.mark.parametrize("name", METHODS)
def test_hyper_parameters_and_their_defaults_are_those_of_the_method(name):
    method, fields = distillers.get(name)(), METHODS[name].fields
    assert {field.name: ast.literal_eval(field.default) for field in fields} == method.settings()
    assert all(field.about for field in fields), "each is described under Args:"


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_compares_is_what_it_reads(name):
    method = distillers.get(name)()
    kinds = {type(reading).__name__ for reading in method.readings} if method.needs_teacher else ()
    assert METHODS[name].reads == [sources.READINGS[kind] for kind in kinds] or set(
        METHODS[name].reads
    ) == {sources.READINGS[kind] for kind in kinds}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_where_it_is_from_and_how_it_is_computed(name):
    method, page = METHODS[name], reference_pages.method_page(METHODS[name])
    assert method.summary and method.text and method.paper
    assert (ROOT / method.file).read_text() in page
    if distillers.get(name).needs_teacher:
        assert method.formulas, "the formula is in the docstring of a public function or of `loss`"
    for paragraph in re.findall(r"Departures?:.*", distillers.get(name).__doc__ or ""):
        assert method.departures and paragraph[:40] in page


def test_every_setting_has_its_row_in_the_table_of_flags():
    page = reference_pages.pages()["reference/flags.md"]
    for module in (settings.distillation, settings.evaluation, settings.pretraining):
        assert module.Settings.__dataclass_fields__
        for name, field in module.Settings.__dataclass_fields__.items():
            if field.metadata:
                assert f"| `--{name}` |" in page, name


def test_every_module_has_its_place_in_the_reference():
    assert set(reference_pages.PACKAGES) | set(reference_pages.MODULES) >= LIBRARY
    pages = reference_pages.pages()
    for package in reference_pages.PACKAGES:
        assert f"\n::: {package}." in pages[f"reference/{package}.md"]


def test_ranges_and_choices_are_told_in_words():
    declared = ast.parse(
        'class A:\n    """A.\n\n    Args:\n        a, b: both.\n    """\n'
        "    a: int = option(1, minimum=1)\n    b: float = option(0.5, minimum=0, maximum=1)\n"
        '    c: str = option("x", "what", group="run", choices=("x", "y|z"))\n'
        "    d: ClassVar[int] = 3\n    e: float = option(1.0, above=0, maximum=2)\n"
    ).body[0]
    described = sources.described_fields(sources.docstring_of(declared))
    found = [sources.read_field(part, described) for part in declared.body]
    assert [(f.name, f.default, f.allowed, f.about, f.group) for f in found if f] == [
        ("a", "1", "at least 1", "both.", ""), ("b", "0.5", "0 to 1", "both.", ""),
        ("c", "'x'", "`x`, `y|z`", "what", "Run"), ("e", "1.0", "above 0, at most 2", "", ""),
    ]


def test_a_table_escapes_what_would_divide_a_cell():
    made = reference_pages.table(["a", "b"], [["x | y", "`p|q` and\n |r|"]])
    assert made.splitlines()[2] == r"| x \| y | `p|q` and \|r\| |"
