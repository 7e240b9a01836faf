"""What the sources state, read without importing them: the distillation methods with their
hyper-parameters, and the flags of the commands.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "distillers": "Distillation methods, and the model that trains a student with them",
    "nets": "Networks, their taps, parameters and FLOPs",
    "dataloader": "Data sets, batches and augmentation",
    "pretext": "Tasks without labels, and the model that pre-trains an encoder with them",
    "targets": "Target tasks that score encoders: classification, detection, clustering",
    "op_util": "The mathematics: singular vectors, gradients, metric learning, schedules",
    "experiment": "Run folders, checkpoints, the epoch loop, reports and exports",
    "settings": "The commands' settings",
}
# What a method's `reads` names, and what it is called.
READINGS = {
    "Maps": "feature maps", "LastMap": "last feature map", "Embedding": "embedding",
    "Logits": "logits",
}
# The commands whose settings the modules of `settings` hold.
COMMANDS = {
    "distillation": "train_w_distill.py", "pretraining": "pretrain_tte.py",
    "evaluation": "evaluate.py", "comparison": "compare.py",
}
_SECTION = re.compile(r"\n(?:Args|Attributes|Returns|Raises|Yields):\n")


@dataclasses.dataclass(frozen=True)
class Field:
    """A hyper-parameter or a flag.

    Attributes:
        name: without ``--``.
        kind: its type, as annotated.
        default: as Python source.
        allowed: its range or choices, in words.
        about: what it is.
        group: the heading under which ``--help`` lists it.
    """

    name: str
    kind: str
    default: str
    allowed: str = ""
    about: str = ""
    group: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class MethodSource:
    """A distillation method, as its file states it.

    Attributes:
        names: the names it is registered under; the first is its own.
        file: relative to the repository's root.
        module: the parsed file.
        node: the parsed class.
    """

    names: tuple[str, ...]
    file: Path
    module: ast.Module
    node: ast.ClassDef

    @property
    def name(self) -> str:
        """The name it is listed under."""
        return self.names[0]

    @property
    def summary(self) -> str:
        """The file's first sentence, without the method's name."""
        text = " ".join((ast.get_docstring(self.module) or "").split("\n\n")[0].split())
        text = text.partition(": ")[2] or text
        return text[:1].upper() + text[1:]

    @property
    def paper(self) -> str:
        """Where it was published, with a link to arXiv."""
        found = {**_keywords(_registration(self.node)), **_assigned(self.node)}.get("paper")
        paper = ast.literal_eval(found) if found else ""
        return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", paper)

    @property
    def reads(self) -> list[str]:
        """What it compares, of the values of `READINGS`; nothing if it needs no teacher."""
        if ast.unparse(_assigned(self.node).get("needs_teacher", ast.Constant(True))) == "False":
            return []
        stated = [
            part for part in self.node.body
            if isinstance(part, ast.FunctionDef) and part.name == "reads"
            or isinstance(part, (ast.Assign, ast.AnnAssign)) and "reads" in _targets(part)
        ]
        parts = (each for part in stated for each in ast.walk(part))
        names = [each.id for each in parts if isinstance(each, ast.Name)]
        found = dict.fromkeys(READINGS[name] for name in names if name in READINGS)
        if found:
            return list(found)
        parents = [_classes()[base] for base in _bases(self.node) if base in _classes()]
        inherited = [
            MethodSource(self.names, self.file, self.module, parent).reads for parent in parents
        ]
        return inherited[0] if inherited else []

    @property
    def text(self) -> str:
        """The class's docstring without the section on its hyper-parameters."""
        return without_sections(docstring_of(self.node))

    @property
    def departures(self) -> str:
        """What the docstring says after "Departure:" or "Departures:", to the paragraph's end."""
        found = re.search(r"\bDepartures?\b[^:]*:\s+(.+?)(?:\n\n|\Z)", self.text, re.DOTALL)
        return found[0].strip() if found else ""

    @property
    def fields(self) -> list[Field]:
        """Its hyper-parameters, inherited ones included, in the order of declaration."""
        return list(_fields(self.node).values())

    @property
    def formulas(self) -> list[ast.FunctionDef]:
        """The public functions of the file, and the method's `loss`, where they are documented."""
        inside = [
            part for part in self.node.body
            if isinstance(part, ast.FunctionDef) and part.name in ("loss", "compute_loss")
        ]
        functions = [part for part in self.module.body if isinstance(part, ast.FunctionDef)]
        return [
            each for each in functions + inside
            if not each.name.startswith("_") and ast.get_docstring(each)
        ]


def methods() -> list[MethodSource]:
    """All distillation methods, by name."""
    found = [
        MethodSource(names, file, module, node)
        for file, module in modules("distillers")
        for node in module.body if isinstance(node, ast.ClassDef)
        if (names := _registered_names(node))
    ]
    return sorted(found, key=lambda method: method.name.lower())


def flags() -> dict[str, list[Field]]:
    """The flags of the commands, by the command, or by the docstring of the settings they share."""
    found = {}
    for file, module in modules("settings"):
        for node in (part for part in module.body if isinstance(part, ast.ClassDef)):
            declared = (read_field(part, {}) for part in node.body)
            fields = [field for field in declared if field and field.about]
            if not fields:
                continue
            if node.name == "Settings":
                found[f"`{COMMANDS.get(file.stem, file.stem)}`"] = fields
            else:
                found[without_sections(docstring_of(node)).split("\n\n")[0].rstrip(".")] = fields
    return found


@functools.cache
def modules(package: str) -> tuple[tuple[Path, ast.Module], ...]:
    """The modules of a package: the files, relative to the repository's root, and their content."""
    files = sorted((ROOT / package).rglob("*.py"))
    return tuple((file.relative_to(ROOT), ast.parse(file.read_text())) for file in files)


@functools.cache
def _classes() -> dict[str, ast.ClassDef]:
    """All classes of `distillers` by name."""
    return {
        node.name: node for _, module in modules("distillers")
        for node in module.body if isinstance(node, ast.ClassDef)
    }


def _bases(node: ast.ClassDef) -> list[str]:
    return [base.id for base in node.bases if isinstance(base, ast.Name)]


def docstring_of(node: ast.ClassDef | ast.FunctionDef) -> str:
    """Its docstring without indentation; "" if it has none."""
    return inspect.cleandoc(ast.get_docstring(node) or "")


def without_sections(docstring: str) -> str:
    """A Google style docstring up to its first section."""
    return _SECTION.split(f"\n{docstring}", maxsplit=1)[0].strip()


def _registration(node: ast.ClassDef) -> ast.Call | None:
    calls = (each for each in node.decorator_list if isinstance(each, ast.Call))
    return next((each for each in calls if getattr(each.func, "id", "") == "register"), None)


def _registered_names(node: ast.ClassDef) -> tuple[str, ...]:
    """The names of the ``@register`` decorators, which are applied from the class upwards."""
    calls = (each for each in reversed(node.decorator_list) if isinstance(each, ast.Call))
    return tuple(
        ast.literal_eval(each.args[0]) for each in calls
        if getattr(each.func, "id", "") == "register" and each.args
    )


def _keywords(call: ast.Call | None) -> dict[str, ast.expr]:
    return {each.arg: each.value for each in call.keywords if each.arg} if call else {}


def _targets(part: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = part.targets if isinstance(part, ast.Assign) else [part.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _assigned(node: ast.ClassDef) -> dict[str, ast.expr]:
    parts = (each for each in node.body if isinstance(each, (ast.Assign, ast.AnnAssign)))
    return {name: part.value for part in parts if part.value for name in _targets(part)}


def _fields(node: ast.ClassDef) -> dict[str, Field]:
    found: dict[str, Field] = {}
    for base in _bases(node):
        found |= _fields(_classes()[base]) if base in _classes() else {}
    about = described_fields(docstring_of(node))
    for part in node.body:
        field = read_field(part, about)
        if field:
            found[field.name] = field
    return found


def read_field(part: ast.stmt, about: dict[str, str]) -> Field | None:
    """The field that a statement of a class declares, or None."""
    if not isinstance(part, ast.AnnAssign) or not isinstance(part.target, ast.Name):
        return None
    kind = ast.unparse(part.annotation)
    if part.value is None or "ClassVar" in kind:
        return None
    name, value = part.target.id, part.value
    facts: dict[str, ast.expr] = {}
    if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "option":
        facts = _keywords(value)
        facts |= {"help": value.args[1]} if len(value.args) > 1 else {}
        value = value.args[0]
    return Field(
        name, kind, _default(value), _allowed(facts),
        _text(facts["help"]) if "help" in facts else about.get(name, ""),
        _text(facts["group"]).capitalize() if "group" in facts else "",
    )


def _default(value: ast.expr) -> str:
    """A default as source; one that is that of another method, ``OTHER.field``, looked up there."""
    if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
        other = _classes().get(value.value.id)
        if other:
            return _fields(other)[value.attr].default
    return ast.unparse(value)


def _text(value: ast.expr) -> str:
    try:
        return str(ast.literal_eval(value))
    except ValueError:
        return ast.unparse(value)


def _allowed(facts: dict[str, ast.expr]) -> str:
    """The range or the choices of an option, in words."""
    if "choices" in facts:
        words = facts["choices"]
        if not isinstance(words, (ast.Tuple, ast.List)):
            words = _constant(ast.unparse(words).split(".")[-1])
        return code_list(map(_text, words.elts)) if words else ""
    low, high, above = (
        ast.unparse(facts[key]) if key in facts else "" for key in ("minimum", "maximum", "above")
    )
    parts = [f"at least {low}" if low else "", f"above {above}" if above else ""]
    parts = [part for part in parts if part] + ([f"at most {high}"] if high else [])
    return f"{low} to {high}" if low and high else ", ".join(parts)


def code_list(names: Iterable[str]) -> str:
    """Names as code, with commas."""
    return ", ".join(f"`{name}`" for name in names)


@functools.cache
def _constant(name: str) -> ast.Tuple | None:
    """The tuple that a module of the project calls `name`, or None."""
    values = (
        part.value
        for package in PACKAGES for _, module in modules(package) for part in module.body
        if isinstance(part, (ast.Assign, ast.AnnAssign)) and name in _targets(part)
    )
    return next((value for value in values if isinstance(value, ast.Tuple)), None)


def described_fields(docstring: str) -> dict[str, str]:
    """What a docstring says of each name under ``Args:``."""
    arguments = docstring.partition("\nArgs:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    ([\w, ]+): (.+(?:\n     +.+)*)", arguments, re.MULTILINE)
    return {
        name: " ".join(text.split()) for names, text in found for name in names.split(", ")
    }
