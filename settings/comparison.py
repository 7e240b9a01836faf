"""The settings of a comparison: the flags of compare.py besides those of train_w_distill.py."""

from __future__ import annotations

import dataclasses

from experiment.command.options import Options, option
from experiment.grid.claims import EXPIRY_SECONDS
from settings import known

COMPARISON, SHARING = "comparison", "sharing"


@dataclasses.dataclass(frozen=True)
class Comparison(Options):
    """The settings in addition to those of train_w_distill.py."""

    Distillation: str = option(
        "None,FSP,Soft_logits,SSKD_SVD",
        "the methods, a list of NAME or NAME(hyper_parameter=value,...) at commas; known: "
        + ", ".join(known.method_names()),
        group=COMPARISON,
    )
    seeds: int = option(
        3, "runs of each method, with the seeds --seed, --seed + 1 ...", group=COMPARISON, minimum=1
    )
    compare_dir: str | None = option(
        None, "folder of the comparison and of all its runs (default: "
        "runs/compare-DATASET-STUDENT)", group=COMPARISON, is_path=True,
    )
    overwrite: bool = option(
        False, "start all runs anew, the teacher's too", group=COMPARISON
    )
    dry_run: bool = option(
        False, "list the runs and their commands, and write nothing", group=COMPARISON
    )
    workers: int = option(
        1, "runs at once on this machine, each with its part of the cores and, where there are "
        "GPUs, one of them", group=SHARING, minimum=1
    )
    shard: str | None = option(
        None, "NUMBER/COUNT, such as 2/8: execute every COUNT-th run, starting with the NUMBER-th "
        "in the order of --dry_run; ignores what other processes do", group=SHARING,
    )
    takeover_seconds: float = option(
        EXPIRY_SECONDS, "seconds without a sign of life from this process before another may take "
        "over its run", group=SHARING, minimum=10
    )
    submit: str | None = option(
        None, "slurm: submit jobs that share the runs instead of executing them here",
        group=SHARING, choices=("slurm",),
    )
    jobs: int = option(4, "jobs that --submit makes", group=SHARING, minimum=1)
    job_options: tuple[str, ...] = option(
        (), "sbatch's options for each submitted job, as NAME=VALUE,..., such as "
        "partition=gpu,gpus_per_node=1,cpus_per_task=8,mem=32G,time=240 (minutes; 5 unless given)",
        group=SHARING,
    )
