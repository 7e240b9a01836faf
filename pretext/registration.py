"""The names of tasks, balances, regularizers and ensembles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plugins
from registry import Registry, UserError

TASKS = Registry("pretext task")
BALANCES = Registry("balance")
REGULARIZERS = Registry("regularizer")
ENSEMBLES = Registry("ensemble")


def split_tasks(tasks: str) -> list[str]:
    """Split ``"rotation,jigsaw(tiles=3)"`` into its specifications, with registered names.

    Raises:
        UserError: no task, an unknown or repeated task, or a syntax error.
    """
    found = [plugins.spelled(TASKS, part) for part in plugins.split(tasks)]
    if not found:
        raise UserError(f"no task in {tasks!r}; known: {', '.join(TASKS.names())}")
    names = [plugins.parse(TASKS, part)[0] for part in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"task {name!r} is given twice in {tasks!r}: give it once")
    return found


def create_tasks(tasks: str, hyper_parameters: Mapping[str, Mapping[str, Any]] = {}) -> list[Any]:
    """Create the tasks in ``"rotation,jigsaw(tiles=3)"``.

    Args:
        tasks: specifications, separated by commas.
        hyper_parameters: each task's hyper-parameters, by its name. Those in `tasks` take
            precedence.

    Raises:
        UserError: see `split_tasks`, or a hyper-parameter is wrong.
    """
    return [
        plugins.create(TASKS, each, **hyper_parameters.get(plugins.parse(TASKS, each)[0], {}))
        for each in split_tasks(tasks)
    ]
