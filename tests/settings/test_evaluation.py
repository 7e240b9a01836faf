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


def test_seeds_whose_networks_have_moved_are_averaged(tmp_path):
    """As where the folder of a teacher was moved between the seeds."""
    runs = (("old", "a"), ("new", "a"), ("new", "b"), ("new", None))
    for seed, (place, network) in enumerate(runs):
        save_run(tmp_path / f"run/seed{seed}", seed=seed, teacher=f"{place}/teacher.keras")
        if network:
            facts = json.dumps({"teacher": network})
            (tmp_path / f"run/seed{seed}/networks.json").write_text(facts)
    encoder = (f"{tmp_path}/run",)
    Settings(encoder=encoder, seeds=2).spelled()
    with pytest.raises(UserError, match=r'seed0 and .*seed2 are .*\(teacher: "old/.* -> "new/'):
        Settings(encoder=encoder, seeds=3).spelled()
    (tmp_path / "run/seed2/networks.json").write_text(json.dumps({"teacher": "a"}))
    with pytest.raises(UserError, match=r'seed0 and .*seed3 are .*\(teacher: "old/.* -> "new/'):
        Settings(encoder=encoder, seeds=4).spelled()
