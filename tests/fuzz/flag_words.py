"""Every flag of the commands with values of all kinds."""

from __future__ import annotations

import dataclasses
import importlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.material import NPZ, ONE, OWN, Material

BASES: dict[str, tuple[Sequence[str], ...]] = {
    "train_w_distill": (
        ("--Distillation=AT", NPZ, *OWN, *ONE, "--images_per_second=100", "--train_dir=new"),
        ("--Distillation=Soft_logits", NPZ, "--net=MobileNet", "--teacher_options=width=8,first=8",
         "--student_options=width=8,first=8", *ONE, "--images_per_second=100", "--train_dir=new"),
    ),
    "compare": (("--Distillation=None,AT", NPZ, *OWN, *ONE, "--compare_dir=new"),),
    "pretrain_tte": (
        (NPZ, "--net=MobileNet_student", "--net_options=width=8,first=8", *ONE,
         "--tasks=rotation,instance",
         "--targets=clustering", "--train_dir=new"),
    ),
    "evaluate": (
        (NPZ, "--encoder=pixels,student.keras", "--targets=clustering", "--seeds=1",
         "--out_dir=new"),
        ("--encoder=random:VGG_stride_student", "--net_options=width=4", "--dataset=voc:voc",
         "--targets=detection", "--scene_size=32", "--seeds=1", "--out_dir=new"),
    ),
    "export": (("--run=run", "--formats=keras,saved_model"),),
}
NEEDED = ("arrays", "pictures", "networks", "flags")
NEEDED_TOO = {"export": ("runs",)}
FINISHED = ("run", "cut", "tte", "scored", "unscored", "comparison")
"""Folders of material that are not copied for a command that does not need them."""
WORDS = (
    "", " ", "0", "-1", "1", "2", "3", "7", "0.5", "1.5", "-0.0", "1e-400", "1e309", "1e30", "nan",
    "inf", "-inf", "99999999999999999999", "2147483647", "2147483648", "9" * 5000, "0x10", "1_0",
    "½", "١", "1,2", "1;2", "1,,2", "true", "false", "True", "maybe", "None", "none", "null",
    "help", "all", "x", "x" * 300, "x" * 20_000, "a,b,,c", ",", ";", "=", "==", "a=b", "a=1,a=2",
    "width=1", "width=0", "width=-1", "width=1e12", "width=999999999", "width=nan", "(", ")", "a(b",
    "a(b=c))", "+", "a+a", "AT", "AT+SP", "AT(weight=nan)", "AT(weight=1e400)", "AT(weight=(1))",
    "None+None", "SSKD_SVD(num_dfv=99999)", "'", '"', "{}", "{0}", "%s%n", "\n", "a\nb", "\t",
    "\x1b[31m", "\u202e", "日本語", "ü", "\udcff", "..", "../..", "/", "/dev/null", "/dev/zero",
    "/proc/self/mem", "/nowhere/at/all", "~", "~nobody/x", "*", "tte:", "tte:run", "tte:/nowhere",
    "random:", "random:x", "random:random:x", "pixels", "pixels,pixels", "npz:", "npz:/dev/zero",
    "npz:.", "folder:", "folder:/", "folder:.", "folder:data.npz", "voc:", "voc:/", "voc:.",
    "digits", "digits:", "digits:x", "omniglot:data.npz", "npz:data.npz", "folder:pictures",
    "voc:voc", "pretrained:", "pretrained:x", "pretrained:cifar100_resnet20", "pretrained:../x",
    "keras.applications:", "keras.applications:Nope", "data.npz", "teacher.keras", "student.keras",
    "whole.h5", "net.weights.h5", "net.mat", "voc", "pictures", "run.flags", "pipe",
)  # fmt: skip
ALONE = (
    "--", "-", "--no", "--=", "--=1", "x", "--flagfile", "--flagfile=", "--flagfile=.",
    "--flagfile=pipe", "--flagfile=/dev/zero", "--flagfile=/nowhere", "--flagfile=itself.flags",
    "--undefok=x", "--undefok", "--x=1", "--X", "--é", "--\udcff=1", "-v", "--v=9",
)  # fmt: skip
NOT_TRIED = {"dry_run"}  # without it what is accepted would be trained


def names(command: str) -> list[str]:
    """The flags of a command."""
    from settings import distillation, evaluation, export, formats, pretraining

    settings: dict[str, list[Any]] = {
        "train_w_distill": [distillation.Settings],
        "compare": [distillation.Settings, importlib.import_module("compare").Comparison],
        "pretrain_tte": [pretraining.Settings],
        "evaluate": [evaluation.Settings],
        "export": [export.Settings],
    }
    kinds = {"pretrain_tte": pretraining.KINDS.values(), "evaluate": [evaluation.TARGETS],
             "export": [formats.FORMATS]}
    found = [
        field.name for each in settings[command] for field in dataclasses.fields(each)
        if field.metadata
    ]
    if command in kinds:
        found += [flag for kind in kinds[command] for flag in kind.flags()]
    else:
        found += distillation.hyper_parameters()
    return sorted(set(found) - NOT_TRIED)


def choose(command: str, random: Random, material: Material, folder: Path) -> list[str]:
    """A command line with one to three flags of odd values, and the files that it may name."""
    material.need(*NEEDED, *NEEDED_TOO.get(command, ()))
    passed_over = [name for name in FINISHED if not (name == "run" and command in NEEDED_TOO)]
    shutil.copytree(material.folder, folder, symlinks=True,
                    ignore=shutil.ignore_patterns(*passed_over))
    os.mkfifo(folder / "pipe")
    (folder / "itself.flags").write_text("--flagfile=itself.flags\n")
    words = [command, *random.choice(BASES[command]), "--dry_run"]
    known = names(command)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        words.append(_word(random, known))
    return words


def _word(random: Random, known: list[str]) -> str:
    if random.random() < 0.06:
        return random.choice(ALONE)
    name, value = random.choice(known), random.choice(WORDS)
    if random.random() < 0.04:
        name = random.choice((name.upper(), name[:-1], f"no{name}", name.replace("_", "-")))
    return random.choice((f"--{name}={value}",) * 12 + (f"--{name}", f"-{name}={value}"))
