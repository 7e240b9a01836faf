import json

import pytest

from registry import UserError
from settings.evaluation import Settings


def save_run(folder, **settings):
    """A finished run, as far as the settings look at it."""
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "summary.json").write_text("{}")


def test_seeds_of_different_trainings_are_not_averaged(tmp_path):
    """As where a call with --overwrite and fewer seeds has left some of the former run."""
    for seed, epochs in enumerate((3, 3, 5)):
        save_run(tmp_path / f"run/seed{seed}", seed=seed, epochs=epochs, flip=None)
    for encoder in (f"{tmp_path}/run", f"random:{tmp_path}/run"):
        Settings(encoder=(encoder,), seeds=2).spelled()
        Settings(encoder=(encoder,), seeds=1, seed=2).spelled()
        with pytest.raises(UserError, match=r"run/seed0 and .*run/seed2 are .*\(epochs: 3 -> 5\)"):
            Settings(encoder=(encoder,), seeds=3).spelled()
