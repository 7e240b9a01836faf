"""Whether a network was trained on the data that it is now scored on, as far as its run tells."""

from __future__ import annotations

from pathlib import Path

import dataloader
from dataloader.data import TEST_FACTS
from experiment.run.folder import DATA, SUMMARY, alike
from nets.stored import read_summary


def dataset_of(run: Path) -> str | None:
    """The data set that a run was trained on; None where `run` is no finished run."""
    stated = read_summary(run / SUMMARY).get("settings") if (run / SUMMARY).is_file() else None
    name = stated.get("dataset") if isinstance(stated, dict) else None
    return name if isinstance(name, str) else None


def describe_other_split(run: Path, dataset: str, data: dataloader.Data) -> list[str]:
    """A warning where a run of the same data set had other test images: among those of now there
    may be some that it was trained on.

    Args:
        run: its folder.
        dataset: the name of the data set that the run's network is now used on.
        data: that set.
    """
    file = run / f"{DATA}.json"
    if dataset_of(run) != dataset or not file.is_file():
        return []
    kept, now = read_summary(file), data.test.facts
    theirs = kept.get(TEST_FACTS)
    # Of images of another size the mean is another, too.
    compared = len(now) if kept.get("image shape") == list(data.image_shape) else 2
    if not isinstance(theirs, list) or alike(theirs[:compared], now[:compared]):
        return []
    return [
        f"warning: {run} used other test images of {dataset}, so it may have been trained on some "
        "of these: give the same --data_seed and the same files as that run"
    ]
