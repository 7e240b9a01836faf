"""The table that ``--Distillation help`` prints."""

from __future__ import annotations

import textwrap

from experiment.report.tables import WIDTH
from plugins import Plugin, described_fields
from registry import Registry


def methods_table(methods: Registry) -> str:
    """All methods: where each was published, what it compares, and its hyper-parameters."""
    blocks = []
    for name in sorted(methods.names(), key=str.lower):
        method = methods.get(name)
        lines = [f"{name}: {method.paper}", f"    compares {_compares(method)}"]
        texts = described_fields(method)
        for key, field in method.hyper_parameters().items():
            about = f"--{key} (default {field.default}): {texts.get(key, '')}"
            lines += textwrap.wrap(
                about, WIDTH, initial_indent="    ", subsequent_indent="        "
            )
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def _compares(method: type[Plugin]) -> str:
    """What of the two networks a method compares."""
    reads = method.reads if isinstance(method.reads, tuple) else (method.reads,)
    if None in reads:
        return "what its hyper-parameters say"
    return " and ".join(dict.fromkeys(each.key for each in reads)) or "nothing"
