"""Put the network of a finished run into ``pretrained/``, with a card that says how it was made.

    python benchmarks/evidence/include_network.py RUN_FOLDER NAME

The network is then known as ``pretrained:NAME``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from nets.pretrained import FOLDER  # noqa: E402 (found by the line above)

RECIPE = (
    "epochs", "batch_size", "optimizer", "learning_rate", "momentum", "schedule", "weight_decay",
    "rotation", "crop_padding", "mixed_precision", "train_images", "validation_fraction", "seed",
)


def include(run: Path, name: str, folder: Path = FOLDER) -> dict:
    """Copy the network of `run`, write its card, and return the card."""
    summary = json.loads((run / "summary.json").read_text())
    settings = summary["settings"]
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.keras"
    shutil.copyfile(run / "student.keras", file)
    card = {
        "name": name,
        "network": settings["student_net"],
        "options": settings["student_options"],
        "dataset": _without_folder(summary["dataset"]),
        "method": summary["method"],
        "recipe": {key: settings[key] for key in RECIPE},
        "top1": summary["student_top1"],  # of the weights in the file
        "top5": summary["student_top5"],
        "parameters": summary["parameters"],
        "flops": summary["flops"],
        "preprocessing": summary["preprocessing"],
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    (folder / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def _without_folder(dataset: str) -> str:
    """``npz:cifar100.npz`` for ``npz:/folder/cifar100.npz``: where it was says nothing."""
    kind, mark, path = dataset.rpartition(":")
    return f"{kind}{mark}{Path(path).name}"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(json.dumps(include(Path(sys.argv[1]), sys.argv[2]), indent=2))
