import os
import re

import pytest

from experiment.grid import places
from experiment.grid.places import Place, divide
from registry import UserError
from tests.experiment.grid.grids import carry_out, fake


@pytest.fixture
def cores(monkeypatch):
    def give(numbers):
        monkeypatch.setattr(places, "usable_cores", lambda: numbers)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return give


def test_one_worker_may_use_all():
    assert divide(1, 4) == [Place()]


def test_cores_are_divided_without_rest(cores):
    cores([0, 1, 2, 5, 6])
    assert [place.cores for place in divide(2)] == [(0, 1), (2, 5, 6)]
    assert [place.cores for place in divide(5)] == [(0,), (1,), (2,), (5,), (6,)]
    with pytest.raises(UserError, match="--workers is 6, .* 5 cores; give at most 5"):
        divide(6)


def test_each_worker_has_a_gpu(cores, monkeypatch):
    cores(range(8))
    visible = "CUDA_VISIBLE_DEVICES"
    monkeypatch.setattr(places, "free_memory", lambda: 3001)
    half, third = {"MOST_MEMORY": "1500"}, {"MOST_MEMORY": "1000"}
    assert [dict(place.environment) for place in divide(2, 2)] == [
        {visible: "0", **half}, {visible: "1", **half}
    ]
    monkeypatch.setenv(visible, "3,GPU-abc")
    shared = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", **third}
    assert [dict(place.environment) for place in divide(3, 2)] == [
        {visible: "3", **shared}, {visible: "GPU-abc", **shared}, {visible: "3", **shared}
    ]
    monkeypatch.setenv(visible, "")
    assert all(place.environment == half for place in divide(2, 0))


def test_workers_run_at_once_each_in_its_place(tmp_path, monkeypatch):
    core = min(os.sched_getaffinity(0))
    each = [Place((core,), {"CUDA_VISIBLE_DEVICES": name}) for name in ("3", "5")]
    teacher = fake(tmp_path, "teacher", what="slow")
    runs = [teacher, fake(tmp_path, "A", 1, "slow", teacher), fake(tmp_path, "None", 1, "short"),
            fake(tmp_path, "None", 2, "fault"), fake(tmp_path, "A", 2, "slow", teacher)]
    outcomes, changes, shown = carry_out(runs, places=each)
    assert [outcome.status for outcome in outcomes] == [
        "finished", "finished", "finished", "failed", "finished"
    ]
    said = [re.search(r"GPU (\d), cores \[(\d+)\]", run.log.read_text()).groups() for run in runs]
    assert {where for _, where in said} == {str(core)} and {gpu for gpu, _ in said} == {"3", "5"}
    # The first runs began at once, and what needs one of them waited for it.
    ended = [re.match(r"run (\d)/5", line)[1] for line in shown.splitlines()]
    assert sorted(ended) == list("12345")
    assert ended[0] == "3" and ended.index("1") < ended.index("2")
