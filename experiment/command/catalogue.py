"""Find out what a package registers by reading its source, without importing it.

Files of methods, tasks and networks import TensorFlow, which takes seconds. `--help`, wrong flags
and wrong names are answered from here instead. Only the expressions of decorators, annotations and
defaults are executed.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plugins import Plugin, option
from registry import Registry

ROOT = Path(__file__).parents[2]
_BUILTINS = vars(builtins)
_TYPES = {"Any": Any, "Sequence": Sequence, "option": option}
# Errors from evaluating names of other projects' modules, for example TensorFlow's.
_UNREADABLE = (NameError, AttributeError, TypeError)


@dataclasses.dataclass(frozen=True)
class Registration:
    """A name and what is registered under it: ``@register("NAME", paper="...")``.

    Attributes:
        name: the registered name.
        facts: the keyword arguments of the decorator.
        definition: the class or function.
        module: the module that registers it.
    """

    name: str
    facts: dict[str, Any]
    definition: ast.ClassDef | ast.FunctionDef
    module: Module


class Module:
    """A module's source.

    Args:
        name: the name, for example ``"distillers.at"``.
        path: the file.
    """

    def __init__(self, name: str, path: Path):
        self.name = name
        self.body = ast.parse(path.read_text(encoding="utf-8")).body
        self._is_package = path.name == "__init__.py"
        self._values = {
            target.id: node.value
            for node in self.body if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        self._definitions = {
            node.name: node for node in self.body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        }
        self._imports = dict(self._imported_names())

    def _imported_names(self) -> Iterator[tuple[str, tuple[str, str]]]:
        """Each name imported with ``from module import name``, its module and its name there."""
        package = self.name if self._is_package else self.name.rpartition(".")[0]
        for node in self.body:
            if isinstance(node, ast.ImportFrom):
                source = node.module or ""
                if node.level:
                    above = package.split(".")[: len(package.split(".")) - node.level + 1]
                    source = ".".join([*above, *([source] if source else [])])
                for alias in node.names:
                    yield alias.asname or alias.name, (source, alias.name)

    def value(self, name: str) -> Any:
        """The value of a name in the module. Raises NameError if it cannot be evaluated."""
        if name in self._values:
            return self.evaluate(self._values[name])
        if isinstance(self._definitions.get(name), ast.ClassDef):
            return declared_class(self, name)
        source, original = self._imports.get(name, ("", ""))
        if _file_of(source) and name not in _TYPES:
            return module(source).value(original)
        if name in _TYPES:
            return _TYPES[name]
        if name in _BUILTINS:
            return _BUILTINS[name]
        raise NameError(name)

    def evaluate(self, expression: ast.expr) -> Any:
        """The value of an expression of literals, names of the module and `option`."""
        code = compile(ast.Expression(expression), self.name, "eval")
        return eval(code, {"__builtins__": {}}, _Names(self))  # safe: it is our own source

    def definition(self, name: str) -> tuple[ast.AST, Module] | None:
        """The class or function called `name` and its module; None if not in this project."""
        if name in self._definitions:
            return self._definitions[name], self
        source, original = self._imports.get(name, ("", ""))
        return module(source).definition(original) if _file_of(source) else None


class _Names(dict):
    """The names of a module for `eval`, each looked up on demand."""

    def __init__(self, owner: Module):
        super().__init__()
        self._owner = owner

    def __missing__(self, name: str) -> Any:
        return self._owner.value(name)


def _file_of(name: str) -> Path | None:
    """The file of a module of this project; None for other modules."""
    top, *parts = name.split(".")
    spec = importlib.util.find_spec(top) if top else None
    if spec is None or spec.origin is None:
        return None
    for folder in spec.submodule_search_locations or []:
        place = Path(folder, *parts)
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.exists():
                return file if file.is_relative_to(ROOT) else None
    origin = Path(spec.origin)
    return origin if not parts and origin.is_relative_to(ROOT) else None


@functools.cache
def module(name: str) -> Module:
    """The source of the module `name`. Raises ModuleNotFoundError if not in this project."""
    path = _file_of(name)
    if path is None:
        raise ModuleNotFoundError(f"no module {name!r} in this project")
    return Module(name, path)


def constant(module_name: str, name: str) -> Any:
    """A module's constant, for example ``constant("op_util.schedules", "SCHEDULES")``."""
    return module(module_name).value(name)


def _modules(package: str) -> list[Module]:
    """The modules of a package, in the order in which `registry.import_modules` imports them.

    For a single module, only that module.
    """
    file = _file_of(package)
    if file is None:
        raise ModuleNotFoundError(f"no package {package!r} in this project")
    if file.name != "__init__.py":
        return [module(package)]
    return [module(f"{package}.{path.stem}") for path in sorted(file.parent.glob("[!_]*.py"))]


def registrations(package: str, decorator: str = "register") -> list[Registration]:
    """The registrations in the modules of a package.

    Args:
        package: a package, for example ``"distillers"``, or a single module.
        decorator: the decorator as written in the source: ``register`` or ``BALANCES.register``.
    """
    return [
        Registration(*_evaluated(each, call, node), node, each)
        for call, node, each in _registering(package, decorator)
    ]


def _evaluated(
    owner: Module, call: ast.Call, node: ast.ClassDef | ast.FunctionDef
) -> tuple[str, dict[str, Any]]:
    """The name and the facts that a decorator gives."""
    try:
        facts = {key.arg: owner.evaluate(key.value) for key in call.keywords}
        return owner.evaluate(call.args[0]), facts
    except _UNREADABLE as error:
        raise TypeError(
            f"{owner.name}: the decorator of {node.name} cannot be read without importing "
            f"({error}): give it literals or constants of the file"
        ) from error


def registered_names(package: str, decorator: str = "register") -> list[str]:
    """The names alone, where facts may be what only Python can evaluate; see `registrations`."""
    return [each.evaluate(call.args[0]) for call, _, each in _registering(package, decorator)]


def _registering(
    package: str, decorator: str
) -> Iterator[tuple[ast.Call, ast.ClassDef | ast.FunctionDef, Module]]:
    """The calls that register something, what they register, and their modules."""
    for each in _modules(package):
        for node in each.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                marks = reversed(node.decorator_list)  # the lowest one registers first
                yield from ((mark, node, each) for mark in marks if _is_call(mark, decorator))
            elif (  # register("CO")(OFD)
                isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
                and _is_call(node.value.func, decorator)
            ):
                yield node.value.func, each.definition(node.value.args[0].id)[0], each


def calls(package: str, function: str) -> list[tuple[list[Any], dict[str, Any]]]:
    """The arguments of all calls of `function` that are statements in a package's modules.

    For example, ``declare_pair("VGG", teacher="VGG_teacher", student="VGG_student")``.
    """
    return [
        (
            [each.evaluate(argument) for argument in node.value.args],
            {key.arg: each.evaluate(key.value) for key in node.value.keywords},
        )
        for each in _modules(package) for node in each.body
        if isinstance(node, ast.Expr) and _is_call(node.value, function)
    ]


def _is_call(node: ast.expr, function: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == function


def plugin_registry(kind: str, package: str, decorator: str = "register") -> Registry:
    """A registry of a package's plug-ins, built from their declarations alone.

    Its classes have the docstrings, fields (with defaults and metadata) and class attributes of the
    real plug-ins and check values in the same way, except for `Plugin.check`. They compute nothing.
    A property is replaced by the class that it returns, or by None.

    Args:
        kind: what messages call an entry.
        package, decorator: see `registrations`.
    """
    registry = Registry(kind)
    for each in registrations(package, decorator):
        declared = declared_class(each.module, each.definition.name)
        registry.register(each.name, **each.facts)(declared)
    return registry


@functools.cache
def declared_class(owner: Module, name: str) -> type[Plugin]:
    """A class with the declarations of the class `name` in a module, including inherited fields."""
    node, owner = owner.definition(name)
    bases = [
        declared_class(owner, base.id) for base in node.bases
        if isinstance(base, ast.Name) and base.id != "Plugin" and owner.definition(base.id)
    ]
    names = {ast.unparse(base) for base in node.bases}
    marks = " ".join(map(ast.unparse, node.decorator_list))
    has_fields = "dataclass" in marks or "Plugin" in names or any(each.has_fields for each in bases)
    body: dict[str, Any] = {
        "__doc__": ast.get_docstring(node), "__annotations__": {}, "has_fields": has_fields
    }
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign):
            _declare(body, statement.target.id, statement, owner)
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            _declare(body, statement.targets[0].id, statement, owner)
        elif (
            isinstance(statement, ast.FunctionDef)
            and "property" in map(ast.unparse, statement.decorator_list)
            and any(hasattr(base, statement.name) for base in bases)
        ):
            body[statement.name] = _returned_class(statement, owner)
    return type(node.name, tuple(bases) or (Plugin,), body)


def _returned_class(node: ast.FunctionDef, owner: Module) -> type[Plugin] | None:
    """The class that a property returns, which replaces it; None if that cannot be read.

    The property overrides an inherited value, and its own value would depend on the instance.
    """
    try:
        returned = owner.evaluate(node.returns) if node.returns else None
    except _UNREADABLE:
        return None
    return returned if hasattr(returned, "has_fields") else None


def _declare(
    body: dict[str, Any], name: str, statement: ast.AnnAssign | ast.Assign, owner: Module
) -> None:
    """Add a field or class attribute to `body` if its value can be read."""
    try:
        body[name] = owner.evaluate(statement.value) if statement.value else None
    except _UNREADABLE:
        body.pop(name, None)
        return
    if not isinstance(statement, ast.AnnAssign):
        return
    if not body["has_fields"] or ast.unparse(statement.annotation).startswith("ClassVar"):
        return
    try:
        body["__annotations__"][name] = owner.evaluate(statement.annotation)
    except _UNREADABLE:
        body["__annotations__"][name] = Any
