"""What /proc/cpuinfo says of processors that do and do not compute bfloat16."""

import pytest

from experiment.run.processor import computes_bfloat16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 avx512f avx512_bf16 clflush\n", True),
        ("processor\t: 0\nflags\t\t: fpu amx_bf16 amx_tile\n\nprocessor\t: 1\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f\n", False),
        ("model name\t: bf16 avx512_bf16\nflags\t\t: fpu\n", False),
        ("", False),
    ],
)
def test_by_its_flags(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert computes_bfloat16(tmp_path / "cpuinfo") is expected


def test_where_nothing_tells(tmp_path):
    assert computes_bfloat16(tmp_path / "missing") is False
