"""Every registered method has a file of its own, and a test file that trains it."""

import ast
from pathlib import Path

import pytest

import distillers
from distillers.registration import METHODS

HERE = Path(__file__).parent
CLASSES = {distillers.get(name) for name in METHODS.names()}
MODULES = sorted(each.__module__.removeprefix("distillers.") for each in CLASSES)


def test_each_method_is_a_file_of_its_own():
    assert len(set(MODULES)) == len(MODULES) > 30


def calls(file):
    """The names of the functions that the tests of a file call themselves."""
    tests = [
        each for each in ast.parse(file.read_text()).body
        if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")
    ]
    return {
        call.func.id for test in tests for call in ast.walk(test)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }


@pytest.mark.parametrize("module", [name for name in MODULES if name != "none"])
def test_each_method_with_a_teacher_passes_the_harness(module):
    """Stages, resuming, bfloat16 and deployment; the command is run with one of each kind only."""
    assert "run_method_test" in calls(HERE / f"test_{module}.py")
