"""The table that ``--Distillation help`` prints."""

from __future__ import annotations

import textwrap

from experiment.report.tables import WIDTH
from plugins import Plugin, described_fields
from registry import Registry


def methods_table(methods: Registry) -> str:
    """All methods: where each was published, what it compares, and its hyper-parameters."""
    first_names: dict[type[Plugin], str] = {}
    for name in methods.names():
        first_names.setdefault(methods.get(name), name)
    blocks = []
    for name in sorted(methods.names(), key=str.lower):
        method = methods.get(name)
        if first_names[method] != name:
            blocks.append(f"{name}: another name of {first_names[method]}")
            continue
        lines = [f"{name}: {method.paper}", f"    {_compares(method)}"]
        texts = described_fields(method)
        for key, field in method.hyper_parameters().items():
            about = f"--{key} (default {field.default}): {texts.get(key, '')}"
            lines += textwrap.wrap(
                about, WIDTH, initial_indent="    ", subsequent_indent="        "
            )
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def _compares(method: type[Plugin]) -> str:
    """What of the two networks a method compares, in words."""
    reads = method.reads if isinstance(method.reads, tuple) else (method.reads,)
    if None in reads:
        return "what it compares depends on its hyper-parameters"
    return "compares " + (" and ".join(dict.fromkeys(each.key for each in reads)) or "nothing")
