"""The pages that are made from the sources when the documentation is built: one for each method and
each package, the tables of methods and flags, and those that are files of the repository's root.

Nothing here has to be edited when a method, a module or a flag is added. Methods are read from
their source (see `experiment.command.catalogue`): building the documentation needs no TensorFlow.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import plugins
from experiment.command import catalogue
from experiment.command.options import Options
from settings import comparison, distillation, evaluation, export, known, pretraining

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
MODULES = {
    "plugins": "Declarations that all plug-ins and settings share",
    "registry": "Names of plug-ins, and errors for users",
    "held_stderr": "What C++ libraries print to stderr, held back and sorted",
    "free_memory": "How much memory a process may take, also in containers and jobs",
    "processors": "Which processors a process may use",
    "regular_files": "Reading files that a user names: never pipes, devices or folders",
    "replicas": "What spans the replicas of a training step",
    "train_w_distill": "Training a student, from Python",
    "pretrain_tte": "Pre-training an encoder, from Python",
    "evaluate": "Scoring encoders, from Python",
    "export": "Writing a student's files and their card, from Python",
}
SETTINGS = {
    "train_w_distill.py": distillation.Settings,
    "compare.py": comparison.Comparison,
    "pretrain_tte.py": pretraining.Settings,
    "evaluate.py": evaluation.Settings,
    "export.py": export.Settings,
}
# What a method's `reads` names, and what it is called.
READINGS = {
    "Maps": "feature maps", "LastMap": "last feature map", "Embedding": "embedding",
    "Logits": "logits",
}
_SECTION = re.compile(r"\n(?:Args|Attributes|Returns|Raises|Yields):\n")


def pages() -> dict[str, str]:
    """Markdown by path within the documentation."""
    return {
        **_root_pages(),
        "methods/index.md": methods_page(methods()),
        **{f"methods/{method.name}.md": method_page(method) for method in methods()},
        "reference/index.md": _reference_index(),
        "reference/flags.md": flags_page(SETTINGS),
        **{f"reference/{name}.md": _package_page(name, about) for name, about in PACKAGES.items()},
        **{
            f"reference/{name}.md": f"# `{name}`\n\n{about}.\n\n::: {name}\n"
            for name, about in MODULES.items()
        },
    }


def _root_pages() -> dict[str, str]:
    """Pages that are files of the repository's root, with links as seen from here."""
    sources = {
        "index.md": "README.md", "contributing.md": "CONTRIBUTING.md",
        "changelog.md": "CHANGELOG.md",
    }
    texts = {page: (ROOT / file).read_text() for page, file in sources.items()}
    for page, file in sources.items():
        texts = {key: text.replace(f"]({file}", f"]({page}") for key, text in texts.items()}
    texts = {
        key: text.replace("](docs/", "](").replace("](LICENSE)", "](licence.md)")
        for key, text in texts.items()
    }
    licence = (ROOT / "LICENSE").read_text()
    return {**texts, "licence.md": f"# Licence\n\n```text\n{licence}```\n"}


# Methods


@dataclasses.dataclass(frozen=True)
class MethodSource:
    """A distillation method, as its file states it.

    Attributes:
        names: the names it is registered under; the first is its own.
        declared: its class, with what it declares (see `catalogue.plugin_registry`).
        module: the file's content.
        file: relative to the repository's root.
        body: the statements of its class, then those of a class that it shares with others.
    """

    names: tuple[str, ...]
    declared: type[plugins.Plugin]
    module: ast.Module
    file: Path
    body: list[ast.stmt]

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
        link = r"[arXiv \1](https://arxiv.org/abs/\1)"
        return re.sub(r"arXiv (\d{4}\.\d{4,5})", link, self.declared.paper)

    @property
    def reads(self) -> list[str]:
        """What it compares, of the values of `READINGS`; nothing if it needs no teacher."""
        if not self.declared.needs_teacher:
            return []
        computed = [
            part for part in self.body
            if isinstance(part, ast.FunctionDef) and part.name == "reads"
        ]
        if computed:  # from the hyper-parameters: all that it may read
            names = [each.id for each in ast.walk(computed[0]) if isinstance(each, ast.Name)]
        else:
            reads = self.declared.reads
            reads = reads if isinstance(reads, tuple) else (reads,)
            names = [type(each).__name__ for each in reads]
        return list(dict.fromkeys(READINGS[name] for name in names if name in READINGS))

    @property
    def text(self) -> str:
        """The class's docstring without the section on its hyper-parameters."""
        return without_sections(self.declared.__doc__ or "")

    @property
    def departures(self) -> str:
        """What the docstring says after "Departure:" or "Departures:", to the paragraph's end."""
        found = re.search(r"\bDepartures?\b[^:.]*:\s+(.+?)(?:\n\n|\Z)", self.text, re.DOTALL)
        return found[0].strip() if found else ""

    @property
    def formulas(self) -> list[ast.FunctionDef]:
        """The public functions of the file, and the method's `loss`, where they are documented."""
        parts = [*self.module.body, *self.body]
        functions = [part for part in parts if isinstance(part, ast.FunctionDef)]
        return [
            each for each in functions
            if not each.name.startswith("_") and ast.get_docstring(each)
            and (each in self.module.body or each.name == "loss")
        ]


@functools.cache
def methods() -> tuple[MethodSource, ...]:
    """All distillation methods, by name."""
    names: dict[str, list[str]] = {}
    found = {}
    for each in catalogue.registrations("distillers"):
        names.setdefault(each.definition.name, []).append(each.name)
        found[each.definition.name] = each
    sources = []
    for key, each in found.items():
        file = Path(*each.module.name.split(".")).with_suffix(".py")
        declared = known.declared_methods().get(each.name)
        content = ast.parse((ROOT / file).read_text())
        body = _body(each.definition, each.module)
        sources.append(MethodSource(tuple(names[key]), declared, content, file, body))
    return tuple(sorted(sources, key=lambda method: method.name.lower()))


def _body(definition: ast.ClassDef, module: catalogue.Module) -> list[ast.stmt]:
    """The statements of a class, then those of its bases but `Method`."""
    body = list(definition.body)
    for base in definition.bases:
        found = module.definition(base.id)
        if found and found[0].name != "Method":
            body += _body(*found)
    return body


def without_sections(docstring: str) -> str:
    """A Google style docstring up to its first section."""
    return _SECTION.split(f"\n{inspect.cleandoc(docstring)}", maxsplit=1)[0].strip()


def method_page(method: MethodSource) -> str:
    """The page of a method: its source, definition, formulas, hyper-parameters and departures."""
    aliases = f" Also registered as {code_list(method.names[1:])}." if method.names[1:] else ""
    reads = f" Compares: {', '.join(method.reads)}." if method.reads else ""
    text = method.text.replace(method.departures, "").strip() if method.departures else method.text
    parts = [f"# {method.name}", f"**{method.summary}**", _linked(text)]
    if method.paper:
        parts.append(f"Source: {method.paper}.{reads}{aliases}")
    parts += [f"```bash\npython train_w_distill.py --Distillation {method.name}\n```"]
    if method.declared.hyper_parameters():
        parts += ["## Hyper-parameters", _hyper_parameters(method.declared)]
    if method.formulas:
        parts += ["## Formulas", *map(_formula, method.formulas)]
    if method.departures:
        parts += ["## Departures from the publication", _linked(method.departures)]
    code = (ROOT / method.file).read_text()
    parts += ["## Source", f'```python title="{method.file}"\n{code}```']
    return "\n\n".join(parts) + "\n"


def _linked(text: str) -> str:
    """Names of methods as links to their pages."""
    for method in methods():
        text = re.sub(rf"(?<!`)`{method.name}`(?!`)", f"[`{method.name}`]({method.name}.md)", text)
    return text


def _formula(function: ast.FunctionDef) -> str:
    text = without_sections(ast.get_docstring(function) or "").replace("\n", "\n    ")
    arguments = ", ".join(argument.arg for argument in function.args.args if argument.arg != "self")
    return f"`{function.name}({arguments})`\n:   {text}"


def _hyper_parameters(declared: type[plugins.Plugin]) -> str:
    about, kinds = plugins.described_fields(declared), plugins.field_types(declared)
    rows = [
        [f"`{name}`", f"`{getattr(kinds[name], '__name__', kinds[name])}`", _code(field.default),
         allowed(field.metadata), about.get(name, "")]
        for name, field in declared.hyper_parameters().items()
    ]
    return table(["Name", "Type", "Default", "Allowed", "Meaning"], rows)


def methods_page(found: Iterable[MethodSource]) -> str:
    """The list of all methods."""
    rows = [
        [f"[{method.name}]({method.name}.md)", method.summary.rstrip("."),
         ", ".join(method.reads), method.paper]
        for method in found
    ]
    head = (
        "# Methods\n\nEach page is made from the method's own file: what it does, its formulas, "
        "its hyper-parameters and defaults, and where it departs from what was published. "
        "[Which method to try first](../guides/choosing.md) is a page of its own, and "
        "`python train_w_distill.py --Distillation help` prints this list.\n\n"
    )
    return head + table(["Method", "What it does", "Compares", "Source"], rows)


# Flags and modules


def flags_page(commands: Mapping[str, type[Options]]) -> str:
    """The flags of each command, by its settings."""
    parts = [
        "# Flags",
        "Each command lists its flags by `--help`. These are all of them but the hyper-parameters "
        "of [methods](../methods/index.md) and other plug-ins. From Python they are the fields of "
        "`Settings`. A flag that is true or false is switched off by `--noNAME`; lists are "
        "separated by commas. `compare.py` has the flags of `train_w_distill.py` too.",
    ]
    for command, settings in commands.items():
        rows = [
            [f"`--{field.name}`", _code(field.default), allowed(field.metadata),
             field.metadata["help"], field.metadata["group"]]
            for field in dataclasses.fields(settings) if field.metadata
        ]
        groups = list(dict.fromkeys(row[-1] for row in rows))
        rows.sort(key=lambda row: -groups.index(row[-1]))  # the command's own first
        parts += [f"## {command}", table(["Flag", "Default", "Allowed", "Meaning", "Group"], rows)]
    return "\n\n".join(parts) + "\n"


def _reference_index() -> str:
    rows = [[f"[`{name}`]({name}.md)", about] for name, about in (PACKAGES | MODULES).items()]
    return (
        "# Reference\n\nAll public functions and classes, made from their docstrings; and the "
        "[flags](flags.md) of the commands.\n\n" + table(["Module", "What it holds"], rows)
    )


def _package_page(name: str, about: str) -> str:
    parts = [f"# `{name}`", f"{about}."]
    if name == "distillers":
        parts.append("The methods have [pages of their own](../methods/index.md).")
    own = {method.file for method in methods()}
    for path in sorted((ROOT / name).rglob("*.py")):
        file = path.relative_to(ROOT)
        if file not in own and _has_public(ast.parse(path.read_text())):
            dotted = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
            parts += [f"## `{dotted}`", f"::: {dotted}"]
    return "\n\n".join(parts) + "\n"


def _has_public(module: ast.Module) -> bool:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) and node.name[0] != "_" for node in module.body)


# Text


def allowed(facts: Mapping[str, Any]) -> str:
    """The range or the choices that `plugins.option` declares, in words."""
    if not facts:
        return ""
    if facts["choices"]:
        return code_list(facts["choices"])
    low, high, above = facts["minimum"], facts["maximum"], facts["above"]
    if low is not None and high is not None:
        return f"{low} to {high}"
    bounds = {"at least": low, "above": above, "at most": high}
    return ", ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)


def code_list(names: Iterable[str]) -> str:
    """Names as code, with commas."""
    return ", ".join(f"`{name}`" for name in names)


def _code(default: Any) -> str:
    return "" if default in (None, ()) else f"`{default}`"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table. A ``|`` in a cell is escaped, but for those in code, which need not be."""
    lines = [head, ["---"] * len(head), *([*map(_cell, row)] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return "".join(_cell_parts(" ".join(text.split())))


def _cell_parts(text: str) -> Iterator[str]:
    for part in re.split(r"(`+[^`]+`+)", text):
        yield part if part.startswith("`") else part.replace("|", r"\|")
