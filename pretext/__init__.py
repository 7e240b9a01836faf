"""Unsupervised pretext tasks, and ways to keep several of them from biasing a shared encoder.

Each task, balance, regularizer and ensemble is a `plugins.Plugin` in its own file, in the folder
for its kind. `MultiTask` trains an encoder with any of them.
"""

from . import balances, ensembles, regularizers, tasks
from .model import MultiTask
from .registration import BALANCES, ENSEMBLES, REGULARIZERS, TASKS
from .task import Images, Task

__all__ = [
    "BALANCES",
    "ENSEMBLES",
    "REGULARIZERS",
    "TASKS",
    "Images",
    "MultiTask",
    "Task",
    "balances",
    "ensembles",
    "regularizers",
    "tasks",
]
