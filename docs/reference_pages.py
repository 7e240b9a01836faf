"""The pages that are made from the sources when the documentation is built: one for each method and
each package, the tables of methods and flags, and those that are files of the repository's root.

Nothing here has to be edited when a method, a module or a flag is added.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from docs.sources import (
    PACKAGES,
    ROOT,
    Field,
    MethodSource,
    code_list,
    docstring_of,
    flags,
    methods,
    modules,
    without_sections,
)

MODULES = {
    "plugins": "Declarations that all plug-ins and settings share",
    "registry": "Names of plug-ins, and errors for users",
    "train_w_distill": "Training a student, from Python",
    "pretrain_tte": "Pre-training an encoder, from Python",
    "evaluate": "Scoring encoders, from Python",
}


def pages() -> dict[str, str]:
    """Markdown by path within the documentation."""
    return {
        **_root_pages(),
        "methods/index.md": methods_page(methods()),
        **{f"methods/{method.name}.md": method_page(method) for method in methods()},
        "reference/index.md": _reference_index(),
        "reference/flags.md": flags_page(flags()),
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


def method_page(method: MethodSource) -> str:
    """The page of a method: its source, definition, formulas, hyper-parameters and departures."""
    aliases = f" Also registered as {code_list(method.names[1:])}." if method.names[1:] else ""
    reads = f" Compares: {', '.join(method.reads)}." if method.reads else ""
    text = method.text.replace(method.departures, "").strip() if method.departures else method.text
    parts = [f"# {method.name}", f"**{method.summary}**", text]
    if method.paper:
        parts.append(f"Source: {method.paper}.{reads}{aliases}")
    parts += [f"```bash\npython train_w_distill.py --Distillation {method.name}\n```"]
    if method.fields:
        parts += ["## Hyper-parameters", _fields_table(method.fields)]
    if method.formulas:
        parts += ["## Formulas", *map(_formula, method.formulas)]
    if method.departures:
        parts += ["## Departures from the publication", method.departures]
    code = (ROOT / method.file).read_text()
    parts += ["## Source", f'```python title="{method.file}"\n{code}```']
    return "\n\n".join(parts) + "\n"


def _formula(function: ast.FunctionDef) -> str:
    text = without_sections(docstring_of(function))
    arguments = ", ".join(argument.arg for argument in function.args.args if argument.arg != "self")
    return f"`{function.name}({arguments})`\n:   {_indented(text)}"


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ")


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


def flags_page(found: dict[str, list[Field]]) -> str:
    """The flags of the commands, by the settings they belong to."""
    parts = [
        "# Flags",
        "Each command lists its flags by `--help`. These are all of them, made from the "
        "declarations in `settings/`. From Python they are the fields of `Settings`. A flag that "
        "is true or false is switched off by `--noNAME`; lists are separated by commas.",
    ]
    for title, fields in found.items():
        rows = [
            [f"`--{field.name}`", _code(field.default), field.allowed, field.about, field.group]
            for field in fields
        ]
        parts += [f"## {title}", table(
            ["Flag", "Default", "Allowed", "Meaning", "Group"], rows
        )]
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
    for file, module in modules(name):
        if file in own or not _has_public(module):
            continue
        dotted = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
        parts += [f"## `{dotted}`", f"::: {dotted}"]
    return "\n\n".join(parts) + "\n"


def _has_public(module: ast.Module) -> bool:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) and node.name[0] != "_" for node in module.body)


def _fields_table(fields: Iterable[Field]) -> str:
    return table(
        ["Name", "Type", "Default", "Allowed", "Meaning"],
        [[f"`{field.name}`", f"`{field.kind}`", _code(field.default), field.allowed, field.about]
         for field in fields],
    )


def _code(text: str) -> str:
    return "" if text in ("None", "()") else f"`{text}`"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table. A ``|`` in a cell is escaped, but for those in code, which need not be."""
    lines = [head, ["---"] * len(head), *([*map(_cell, row)] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return "".join(_cell_parts(" ".join(text.split())))


def _cell_parts(text: str) -> Iterator[str]:
    for part in re.split(r"(`+[^`]+`+)", text):
        yield part if part.startswith("`") else part.replace("|", r"\|")
