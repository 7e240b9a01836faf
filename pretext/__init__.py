"""Unsupervised pretext tasks by name, and what keeps several of them from biasing one encoder.

A further task is one new file in this package that registers a `Task`; `MultiTask` trains an
encoder with any of them.
"""

from registry import import_modules

from .model import MultiTask
from .registration import create, get, names, parse, register
from .task import Task

import_modules(__name__, __path__)

__all__ = ["MultiTask", "Task", "create", "get", "names", "parse", "register"]
