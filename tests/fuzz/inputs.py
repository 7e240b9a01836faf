"""Every reader of a file or folder: what is spoiled, and a command that reads it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz.formats import spoil
from tests.fuzz.material import ALONE, COMPARED, NPZ, ONE, OWN, SCORED, TTE, Material

PLAN = ("--dry_run", "--images_per_second=100", *ONE)
LOOK = ("--targets=clustering", "--seeds=1", "--dry_run")


@dataclass(frozen=True)
class Input:
    """A reader.

    Attributes:
        material: what it needs, see `material.MAKERS`.
        files: what is spoiled: patterns within the folder.
        commands: what reads it, one of which is chosen: the script and its flags.
        share: how often it is chosen, relative to others.
    """

    material: tuple[str, ...]
    files: tuple[str, ...]
    commands: tuple[Sequence[str], ...]
    share: int = 2


def _train(*words: str) -> tuple[str, ...]:
    return ("train_w_distill", *words)


def _score(*words: str) -> tuple[str, ...]:
    return ("evaluate", *words)


INPUTS = {
    "npz": Input(("arrays",), ("data.npz",), (
        _score("--encoder=pixels", NPZ, *LOOK),
        _score("--encoder=pixels", NPZ, "--image_size=4", *LOOK),
    ), 6),
    "omniglot": Input(("arrays",), ("omniglot.npz",), (
        _score("--encoder=pixels", "--dataset=omniglot:omniglot.npz", *LOOK),
    )),
    "pictures": Input(("pictures",), ("pictures/*/*/*",), tuple(
        _score("--encoder=pixels", "--dataset=folder:pictures", *more, *LOOK)
        for more in ((), ("--in_memory=no",), ("--image_size=5",))
    ), 6),
    "voc": Input(("pictures",), ("voc/*/*", "voc/ImageSets/Main/*"), tuple(
        _score("--encoder=random:VGG_stride_student", "--net_options=width=4",
               "--dataset=voc:voc", "--targets=detection", "--scene_size=32", "--seeds=1",
               "--dry_run", *more)
        for more in ((), ("--max_bad=0",), ("--scene_classes=cat,dog",))
    ), 6),
    "teacher": Input(("arrays", "networks"), ("teacher.keras",), (
        _train("--Distillation=AT", NPZ, *OWN, *PLAN),
        _train("--Distillation=Soft_logits", NPZ, *OWN, *PLAN),
    ), 4),
    "student": Input(("arrays", "networks"), ("student.keras",), (
        _train("--Distillation=None", NPZ, "--student_model=student.keras", *PLAN),
        _score("--encoder=student.keras", NPZ, *LOOK),
        ("pretrain_tte", *TTE, "--targets=clustering", "--dry_run"),
    ), 4),
    "h5": Input(("arrays", "networks"), ("whole.h5",), (
        _train("--Distillation=AT", NPZ, *OWN[1:], "--teacher_model=whole.h5", *PLAN),
    )),
    "weights": Input(("arrays", "networks"), ("net.weights.h5",), (
        _train("--Distillation=Soft_logits", NPZ, "--net=MobileNet",
               "--teacher_options=width=8,first=8", "--student_options=width=8,first=8",
               "--teacher=net.weights.h5", *PLAN),
    )),
    "mat": Input(("arrays", "networks"), ("net.mat",), (
        _train("--Distillation=Soft_logits", NPZ, "--image_size=16", "--teacher_net=VGG_student",
               "--student_model=student.keras", "--teacher=net.mat", *PLAN),
    )),
    "export": Input(("arrays", "encoders"), ("tte/export/1/*", "tte/export/1/variables/*"), (
        _score("--encoder=tte/export/1", NPZ, *LOOK),
        _score("--encoder=tte/export/1", NPZ, "--targets=clustering", "--seeds=1", "--out_dir=new"),
    )),
    "run": Input(("arrays", "networks", "runs"), ("run/*.json", "run/.written", "run/.lock",
                                                  "run/student.keras"), (
        _train(*ALONE, "--epochs=2", "--train_dir=run"),
        _train(*ALONE, "--epochs=2", "--train_dir=run", "--dry_run", "--images_per_second=1"),
        _train("--Distillation=Soft_logits", NPZ, "--teacher=run", *OWN[1:2], *PLAN),
        _score("--encoder=run,random:run", NPZ, *LOOK),
        ("export", "run", "--formats=keras", "--dry_run"),
    ), 6),
    "encoder": Input(("arrays", "networks", "encoders"), ("tte/*.json", "tte/encoder.keras",
                                                          "tte/.written"), (
        ("pretrain_tte", *TTE, "--targets=", "--train_dir=tte"),
        _train("--Distillation=AT", NPZ, *OWN[1:], "--teacher=tte:tte", *PLAN),
        _train("--Distillation=None", NPZ, "--student_init=tte:tte", *OWN[1:2], *PLAN),
        _score("--encoder=tte", NPZ, *LOOK),
    ), 4),
    "cut": Input(("arrays", "networks", "runs"), (
        "cut/checkpoints/*", "cut/*.npz", "cut/*.csv", "cut/.written", "cut/*.json", "cut/logs/*",
    ), (_train(*ALONE, "--epochs=2", "--train_dir=cut"),), 1),
    "scores": Input(("arrays", "scores"), ("scored/*.json", "unscored/*.json", "unscored/.written"),
                    (
        _score(*SCORED, "--out_dir=scored"), _score(*SCORED, "--out_dir=unscored"),
    ), 3),
    "comparison": Input(("arrays", "networks", "comparison"), (
        "comparison/*.json", "comparison/.written", "comparison/None/seed0/*.json",
        "comparison/*.csv",
    ), (("compare", *COMPARED, "--dry_run"),), 2),
    "flag file": Input(("arrays", "networks", "flags"), ("run.flags",), (
        _train("--flagfile=run.flags", "--Distillation=None", "--student_model=student.keras",
               *PLAN),
        ("compare", "--flagfile=run.flags", "--Distillation=None", "--student_model=student.keras",
         "--dry_run"),
        ("pretrain_tte", "--flagfile=run.flags", *TTE[1:], "--targets=", "--dry_run"),
        _score("--flagfile=run.flags", "--encoder=pixels", *LOOK),
    ), 4),
}


def spoiled(name: str, random: Random, material: Material, folder: Path) -> tuple[list[str], str]:
    """Copy what the input `name` needs to `folder` and spoil a file of it.

    Returns:
        The command that reads it, and what was done.
    """
    own = INPUTS[name]
    material.need(*own.material)
    command = list(random.choice(own.commands))
    folder.mkdir()
    for entry in material.folder.iterdir():
        if entry.name in " ".join(command) or entry.name == "data.npz":
            copy = shutil.copytree if entry.is_dir() else shutil.copy
            copy(entry, folder / entry.name)
    files = sorted(
        path for pattern in own.files for path in folder.glob(pattern) if path.is_file()
    )
    path = random.choice(files)
    done = spoil(random, path)
    return command, f"{path.relative_to(folder).parent}/{done}"
