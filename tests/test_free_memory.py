"""The memory of a process within limits, by files as Linux has them."""

import psutil
import pytest

import free_memory

GIB = 2**30
HUGE = 9223372036854771712  # what version 1 says where there is no limit


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes a control group's files; the groups are what `free_memory` finds."""
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: type("Memory", (), {"available": 100 * GIB})
    )
    own = tmp_path / "own"
    find = free_memory._left_in_groups
    monkeypatch.setattr(free_memory, "_left_in_groups", lambda: find(own, tmp_path / "groups"))

    def write(membership, **files):
        own.write_text(membership + "\n")
        for path, (limit, used, reclaimable) in files.items():
            folder = tmp_path / "groups" / path.replace("__", "/").strip("/")
            folder.mkdir(parents=True, exist_ok=True)
            first = path.startswith("memory")
            (folder / ("memory.limit_in_bytes" if first else "memory.max")).write_text(f"{limit}\n")
            used_file = "memory.usage_in_bytes" if first else "memory.current"
            (folder / used_file).write_text(f"{used}\n")
            prefix, half = "total_" * first, reclaimable // 2
            (folder / "memory.stat").write_text(
                f"cache 7\n{prefix}inactive_file {half}\n{prefix}active_file {half}\n"
            )

    return write


def test_the_host_alone(groups):
    assert free_memory.free_memory() == 100 * GIB  # no Linux
    groups("0::/")
    assert free_memory.free_memory() == 100 * GIB
    groups("0::/a", a=("max", 3 * GIB, 0))
    assert free_memory.free_memory() == 100 * GIB


def test_a_limit_and_what_is_taken_of_it(groups):
    groups("0::/a/b", a=(16 * GIB, 5 * GIB, GIB), a__b=("max", 2 * GIB, GIB))
    assert free_memory.free_memory() == 12 * GIB
    groups("0::/a/b", a__b=(8 * GIB, 2 * GIB, GIB))
    assert free_memory.free_memory() == 7 * GIB
    groups("0::/a/b", a__b=(8 * GIB, 9 * GIB, 0))
    assert free_memory.free_memory() == 0


def test_version_1_also_in_a_container(groups):
    groups("5:cpu:/x\n9:memory:/docker/17", memory=(4 * GIB, GIB, 0))
    assert free_memory.free_memory() == 3 * GIB
    groups("9:memory:/docker/17", memory=(HUGE, GIB, 0))
    assert free_memory.free_memory() == 100 * GIB


def test_one_of_several_processes_has_a_part_of_what_was_free_before_them(groups, monkeypatch):
    groups("0::/a", a=(16 * GIB, 6 * GIB, 0))  # which the others have taken
    monkeypatch.setenv(free_memory.MOST, str(8 * GIB))
    assert free_memory.free_memory() == 8 * GIB
    groups("0::/a", a=(16 * GIB, 9 * GIB, 0))
    assert free_memory.free_memory() == 7 * GIB


def test_this_machine_has_some():
    assert 0 < free_memory.free_memory() <= psutil.virtual_memory().total
