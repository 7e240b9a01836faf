import importlib
import types

import keras
import numpy as np
import pytest

from experiment.export import formats  # noqa: F401 (registers them)
from experiment.export.conversion import convert
from experiment.export.format import FORMATS, UnfitError
from experiment.export.processes import check_layers, modules_with_layers, run_module
from nets.stored import load_model
from registry import UserError
from tests.experiment.export.networks import images, material

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


@pytest.mark.parametrize(("status", "kind"), [(2, UserError), (3, UnfitError)])
def test_what_will_never_fit_is_told_from_what_failed(status, kind, tmp_path, monkeypatch):
    code = f"import sys\nprint('error: no', file=sys.stderr)\nsys.exit({status})"
    (tmp_path / f"refuses{status}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="^no$") as raised:
        run_module(f"refuses{status}", [], "converting")
    assert type(raised.value) is kind


def test_it_gets_its_words(tmp_path, monkeypatch):
    (tmp_path / "writes.py").write_text("import sys\nopen(sys.argv[1], 'w').write(sys.argv[2])")
    monkeypatch.syspath_prepend(tmp_path)
    run_module("writes", [str(tmp_path / "out"), "a b"], "converting")
    assert (tmp_path / "out").read_text() == "a b"


def test_it_sees_no_gpu(tmp_path, monkeypatch):
    """Files are measured on the CPU, which the card names, and the memory of GPUs is in use."""
    (tmp_path / "looks.py").write_text(
        "import os, sys\nopen(sys.argv[1], 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    run_module("looks", [str(tmp_path / "out")], "measuring")
    assert (tmp_path / "out").read_text() == "-1"


LAYER = """
import keras

@keras.saving.register_keras_serializable("own")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


def test_layers_of_a_persons_own_are_known_to_the_process_too(tmp_path, monkeypatch):
    (tmp_path / "own_layers.py").write_text(LAYER)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_layers")
    monkeypatch.delitem(keras.saving.get_custom_objects(), "own>Doubled")  # afterwards as before
    keras.saving.get_custom_objects()["own>Doubled"] = own.Doubled
    assert "own_layers" in modules_with_layers()
    made = material(last=own.Doubled())
    made.write(tmp_path / "material")
    path = tmp_path / "student.keras"
    convert(FORMATS.get("keras")(), tmp_path / "material", path)
    some = images(3)
    expected = made.serving_model()(some)
    np.testing.assert_allclose(load_model(path)(some), expected, rtol=1e-5, atol=1e-6)
    check_layers(made.student.layers)


def test_modules_that_cannot_be_imported_matter_to_networks_that_need_them_alone(
    tmp_path, monkeypatch
):
    gone = types.new_class("Gone", (keras.layers.Layer,))
    gone.__module__ = "no_longer_there"
    monkeypatch.setitem(keras.saving.get_custom_objects(), "own>Gone", gone)
    material().write(tmp_path / "material")
    path = tmp_path / "student.keras"
    convert(FORMATS.get("keras")(), tmp_path / "material", path)
    assert path.exists()


def test_layers_of_the_script_itself_are_refused():
    of_script = types.new_class("Odd", (keras.layers.Layer,))
    of_script.__module__ = "__main__"
    with pytest.raises(UserError, match="layer 'odd' is of a class of the script .* Odd, .*module"):
        check_layers([keras.layers.ReLU(), of_script(name="odd")])
