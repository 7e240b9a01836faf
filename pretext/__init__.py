"""Unsupervised pretext tasks, and what keeps several of them from biasing one encoder.

Each task, balance, regularizer and ensemble is a `plugins.Plugin` in a file of its own, in the
folder of its kind. `MultiTask` trains an encoder with any of them.
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
