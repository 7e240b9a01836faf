import ml_dtypes
import numpy as np
import pytest

from experiment.run import arrays
from experiment.run.checkpoints import Checkpoints
from experiment.run.folder import RunFolder


def state(value):
    return {
        "model": {
            "dense/kernel": np.full((2, 3), value, np.float32),
            "half": np.array([1.5, -0.0, np.nan, np.inf], ml_dtypes.bfloat16),
            "seed": np.array([2**32 - 1, 0], np.uint32),
            "memory": np.arange(4, dtype=np.float16)[::2],
            "transposed": np.arange(6.0).reshape(2, 3).T,
        },
        "optimizer": {"iterations": np.int64(2**40 + value), "flag": np.array(True)},
        "empty": {},
    }


@pytest.fixture
def checkpoints(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.open({})
        yield Checkpoints(folder)


def names(checkpoints):
    return sorted(path.name for path in (checkpoints._folder.path / "checkpoints").iterdir())


def save(checkpoints, epoch, step=0):
    return checkpoints.save({"epoch": epoch, "step": step}, state(epoch))


def test_every_dtype_survives_exactly(checkpoints):
    assert checkpoints.latest() is None
    progress = {"epoch": 7, "step": 3, "history": [{"loss": 0.1, "worst": float("nan")}]}
    path = checkpoints.save(progress, state(7))
    assert path.name == "000007-000003.npz"
    read, groups = checkpoints.latest()
    assert read["history"][0]["loss"] == 0.1 and np.isnan(read["history"][0]["worst"])
    assert list(groups) == ["model", "optimizer", "empty"]
    for group, expected in state(7).items():
        assert list(groups[group]) == list(expected)
        for name, array in expected.items():
            found = groups[group][name]
            assert found.dtype == array.dtype and found.shape == array.shape
            assert found.tobytes() == array.tobytes()
    assert np.load(path)["optimizer/iterations"] == 2**40 + 7


def test_last_two_are_kept(checkpoints):
    for epoch, step in [(0, 5), (1, 0), (1, 9), (2, 0)]:
        save(checkpoints, epoch, step)
    assert names(checkpoints) == ["000001-000009.npz", "000002-000000.npz"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_damaged_one_is_reported_and_the_one_before_used(checkpoints, capsys, damage):
    save(checkpoints, 1)
    path = save(checkpoints, 2)
    content = path.read_bytes()
    for place in [0, len(content) // 2, len(content) - 70, len(content) - 1]:
        changed = bytearray(content)
        changed[place] ^= 4
        damaged = {"truncate": content[:place], "flip": bytes(changed), "empty": b""}
        path.write_bytes(damaged[damage])
        assert checkpoints.latest()[0]["epoch"] == 1
    reported = capsys.readouterr().err
    assert "000002-000000.npz is damaged" in reported and reported.count("\n") == 1
    # What is saved now, before the damaged one's place, must not push the good ones out.
    save(checkpoints, 1, 3)
    assert names(checkpoints) == ["000001-000000.npz", "000001-000003.npz"]


def test_interrupted_writing_leaves_nothing_to_read(checkpoints):
    save(checkpoints, 1)
    (checkpoints._folder.path / "checkpoints" / ".partial-000002-000000.npz").write_bytes(b"half")
    assert checkpoints.latest()[0]["epoch"] == 1


def test_missing_file_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        arrays.load(tmp_path / "none.npz")
