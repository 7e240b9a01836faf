"""Who imports whom, and whether what is imported is what the requirements say."""

import ast
import re
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nets.keras_hub_presets
from experiment.export import formats  # noqa: F401 (registers them)
from experiment.export.format import FORMATS
from experiment.run import cluster

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "registry": set(),
    "held_stderr": set(),
    "free_memory": set(),
    "processors": set(),
    "regular_files": set(),
    "plugins": {"registry"},
    "replicas": set(),
    "op_util": {"registry"},
    "nets": {"free_memory", "registry", "regular_files"},
    "dataloader": {"free_memory", "held_stderr", "processors", "registry", "regular_files"},
    "experiment": {
        "free_memory", "held_stderr", "processors", "registry", "regular_files", "plugins", "nets",
    },
    "distillers": {"registry", "plugins", "replicas", "nets", "op_util"},
    "pretext": {"registry", "plugins", "replicas", "nets", "op_util"},
    "targets": {"registry", "plugins", "nets", "op_util", "dataloader"},
    "settings": {
        "registry", "plugins", "op_util", "nets", "dataloader", "distillers", "pretext",
        "experiment",
    },
}
LIBRARY = set(MAY_IMPORT)
# Nobody imports a script.
SCRIPTS = {file.stem for file in ROOT.glob("*.py")} - LIBRARY
NOT_PARTS = {"tests", "benchmarks"}
# Plug-ins made of others: a data source that reads one's files, formats that go on from another's,
# and an ensemble that is both of two.
MADE_OF_OTHERS = {
    "dataloader/digit_scenes.py": {"dataloader/digits.py"},
    "dataloader/omniglot.py": {"dataloader/npz.py"},
    "dataloader/tfds_scenes.py": {"dataloader/tfds.py"},
    "experiment/export/formats/litert_int8.py": {"experiment/export/formats/litert.py"},
    "experiment/export/formats/litert_qat.py": {"experiment/export/formats/litert.py"},
    "pretext/ensembles/both.py": {"pretext/ensembles/temporal.py", "pretext/ensembles/weights.py"},
}
KERAS_GRAPH = "nets/keras_graph.py"
KERAS_PRIVATE = re.compile(
    r"_keras_history|_(in|out)bound_nodes|_flatten_layers|_maybe_symbolic_build|_run_through_graph"
    r"|_(operations|nodes)_by_depth|_self_setattr_tracking|_tracker\b|safe_mode=False|MethodType"
)
# Named tuples' method and attribute, `os._exit`, and a method of tf.Graph.
OTHERS_PRIVATE = {"_replace", "_fields", "_exit", "_get_function"}
# By which KerasHub downloads, where it is installed.
OF_KERAS_HUB = {"keras_hub", "kagglehub", "huggingface_hub"}
OPTIONAL = {"ai_edge_litert", "kubernetes", "onnxruntime", "submitit"} | OF_KERAS_HUB
NEEDED_WITHOUT_IMPORT = {
    "tensorboard",  # by tf.summary, and to look at logs
    "importlib-resources",  # by tensorflow-datasets, which does not say so
}


def imported(source):
    """The top-level names that a module imports, anywhere in it, but relatively."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def files(part):
    return sorted((ROOT / part).rglob("*.py")) or [ROOT / f"{part}.py"]


def imported_by(part):
    return set().union(*(imported(file.read_text()) for file in files(part)))


def local():
    folders = {folder.name for folder in ROOT.iterdir() if any(folder.glob("*.py"))}
    return folders | LIBRARY | SCRIPTS


def requirements(file):
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


def test_imports_are_found_wherever_they_are():
    source = "import a.b, c\nfrom d.e import f\nfrom . import g\ndef h():\n    from i import j\n"
    assert imported(source) == {"a", "c", "d", "i"}


@pytest.mark.parametrize("part", sorted(LIBRARY))
def test_a_part_imports_only_what_it_may(part):
    assert imported_by(part) & local() - {part} <= MAY_IMPORT[part]


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_scripts_import_the_library_alone(script):
    assert imported_by(script) & local() <= LIBRARY


def registers(source):
    """Whether a module has a plug-in: a class or function with a decorator ``register(...)``."""
    decorators = [
        each.func for node in ast.parse(source).body
        for each in getattr(node, "decorator_list", []) if isinstance(each, ast.Call)
    ]
    names = [getattr(each, "attr", getattr(each, "id", None)) for each in decorators]
    return any(name and name.startswith("register") for name in names)


def modules_imported(source, package):
    """The files, as far as they exist, that a module may mean by ``from ... import``, anywhere in
    it: the module named, or one of that name within it.

    Args:
        source: of the module.
        package: the folder that it is in, for relative imports.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {ROOT / alias.name.replace(".", "/") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.parents[node.level - 2] if node.level > 1 else package
            base = (base if node.level else ROOT) / (node.module or "").replace(".", "/")
            found |= {base, *(base / alias.name for alias in node.names)}
    return {file.with_suffix(".py") for file in found if file.with_suffix(".py").exists()}


def test_plug_ins_and_their_imports_are_found():
    assert registers('@register("AT")\nclass AT: pass\n')
    assert registers('@TASKS.register("x")\ndef x(): pass\n')
    assert registers('@register_scenes("x")\ndef x(): pass\n')
    assert not registers("@dataclass(frozen=True)\nclass A: pass\ndef register(): pass\n")
    source = "from distillers.at import AT\nfrom distillers import cc\nfrom . import crd\n"
    source += "import distillers.dkd\nfrom distillers.method import Method\n"
    found = {file.stem for file in modules_imported(source, ROOT / "distillers")}
    assert found == {"at", "cc", "crd", "dkd", "method"}


def test_no_plug_in_imports_another():
    """What two of them share is in `op_util/`, or in a module that registers nothing."""
    sources = {file: file.read_text() for part in LIBRARY for file in files(part)}
    plug_ins = {file for file, source in sources.items() if registers(source)}
    assert {ROOT / "distillers" / "sskd_svd.py", ROOT / "nets" / "vgg.py"} <= plug_ins
    assert ROOT / "distillers" / "singular_vectors.py" not in plug_ins
    for file in plug_ins:
        others = modules_imported(sources[file], file.parent) & plug_ins - {file}
        names = {each.relative_to(ROOT).as_posix() for each in others}
        name = file.relative_to(ROOT).as_posix()
        assert names <= MADE_OF_OTHERS.get(name, set()), name


def private_names(source):
    """Names of Keras' private interface, and private attributes of objects other than one's own."""
    named = {match[0] for match in KERAS_PRIVATE.finditer(source)}
    found: set[str] = set()
    nodes = list(ast.walk(ast.parse(source)))
    own_methods = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found |= set() if own else {node.attr}
    return named | found - OTHERS_PRIVATE - own_methods


def test_private_names_are_found_however_they_are_read():
    source = 'self._own\nlayer._hidden\nself._held._deep\ngetattr(tensor, "_keras_history")\n'
    assert private_names(source) == {"_hidden", "_deep", "_keras_history"}


def test_one_module_alone_uses_the_private_interface_of_keras():
    everywhere = [file for part in LIBRARY | SCRIPTS for file in files(part)]
    sources = {file.relative_to(ROOT).as_posix(): file.read_text() for file in everywhere}
    found = {name for name, source in sources.items() if private_names(source)}
    documented = ast.get_docstring(ast.parse(sources[KERAS_GRAPH]))
    assert found == {KERAS_GRAPH}
    public = [node.name for node in ast.parse(sources[KERAS_GRAPH]).body
              if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"]
    assert [name for name in public if f"`{name}`" not in documented] == ["Call"]


def test_every_package_has_its_place_here_and_is_installed():
    packages = {file.parent.name for file in ROOT.glob("*/__init__.py")} - NOT_PARTS
    modules = {name for name in LIBRARY if (ROOT / f"{name}.py").exists()}
    assert packages | modules == LIBRARY
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = setuptools["packages"]["find"]["include"]
    assert all(any(fnmatch(package, pattern) for pattern in patterns) for package in packages)
    assert set(setuptools["py-modules"]) == modules


def test_dependencies_are_stated_once():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "dependencies" not in pyproject["project"]
    assert "dependencies" in pyproject["project"]["dynamic"]
    stated = pyproject["tool"]["setuptools"]["dynamic"]["dependencies"]
    assert stated == {"file": ["requirements.txt"]}
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text().splitlines()


def distributions(names):
    """The names of the packages on the index that the modules `names` are from, but for optional
    ones, which need not be installed."""
    known = packages_distributions()
    foreign = names - local() - set(sys.stdlib_module_names) - OPTIONAL
    return {canonicalize_name(known[name][0]) for name in foreign}


def test_the_refusals_without_optional_packages_name_the_versions_that_are_required():
    for extra, named in (("keras-hub", nets.keras_hub_presets.INSTALL),
                         ("kubernetes", cluster.INSTALL)):
        (required,) = requirements(f"requirements-{extra}.txt")
        assert f'pip install "{required}"' == named


def test_optional_packages_are_an_extra_and_named_where_they_are_missing():
    stated = {canonicalize_name(each.name) for each in requirements("requirements-export.txt")}
    named = {
        canonicalize_name(package): module
        for name in FORMATS.names() for module, package in FORMATS.get(name).packages.items()
    }
    assert set(named) == stated
    assert set(named.values()) >= OPTIONAL - OF_KERAS_HUB - {"kubernetes", "submitit"}


def test_what_is_imported_is_required_and_the_other_way_round():
    required = {canonicalize_name(each.name) for each in requirements("requirements.txt")}
    used = distributions(set().union(*map(imported_by, LIBRARY | SCRIPTS)))
    assert used <= required
    assert required - used <= NEEDED_WITHOUT_IMPORT
    tools = {canonicalize_name(each.name) for each in requirements("requirements-dev.txt")}
    assert distributions(imported_by("tests")) <= required | tools


@pytest.mark.parametrize(
    "requirement",
    requirements("requirements.txt") + requirements("requirements-dev.txt"),
    ids=str,
)
def test_what_is_installed_is_what_is_required(requirement):
    assert requirement.specifier.contains(version(requirement.name))
    # A later major version may break what works now.
    assert {each.operator for each in requirement.specifier} & {"==", "<"}
