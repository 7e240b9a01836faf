import pytest

from experiment.export.processes import run_module
from registry import UserError

CASES = {
    "refuses": ("import sys\nprint('noise\\nerror: no such net', file=sys.stderr)\nsys.exit(2)",
                r"^no such net$"),
    "crashes": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
                r"^converting failed, its process ended by SIGSEGV"),
    "raises": ("raise ValueError('odd')",
               r"^converting failed, its process ended by exit status 1: ValueError: odd$"),
}


@pytest.mark.parametrize("name", CASES)
def test_how_a_process_ended_is_told_in_one_line(name, tmp_path, monkeypatch):
    code, message = CASES[name]
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message):
        run_module(name, [], "converting")


def test_it_gets_its_words(tmp_path, monkeypatch):
    (tmp_path / "writes.py").write_text("import sys\nopen(sys.argv[1], 'w').write(sys.argv[2])")
    monkeypatch.syspath_prepend(tmp_path)
    run_module("writes", [str(tmp_path / "out"), "a b"], "converting")
    assert (tmp_path / "out").read_text() == "a b"
