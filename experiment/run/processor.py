"""What the processor can do, by what Linux says of it."""

from __future__ import annotations

from pathlib import Path

SET_BY_PROCESSOR = "mixed_precision"  # the setting whose default depends on the processor
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86 and, the last one, of Arm


def computes_bfloat16(cpuinfo: str | Path = "/proc/cpuinfo") -> bool:
    """Whether the processor multiplies numbers of bfloat16, by which convolutions are two to three
    times as fast as in float32. Others emulate it, and are slower. False where nothing tells.

    Args:
        cpuinfo: Linux's description of the processors.
    """
    try:
        lines = Path(cpuinfo).read_text(errors="replace").splitlines()
    except OSError:
        return False
    described = (line.partition(":") for line in lines)
    abilities = (
        set(words.split()) for name, _, words in described
        if name.strip().lower() in ("flags", "features")
    )
    return any(each & _BFLOAT16 for each in abilities)
