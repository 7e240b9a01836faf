"""Distillation methods by name, and the model that trains a student with one of them.

A further method is one new file in this package that registers a `Method`.
"""

from typing import Any

from registry import import_modules

from .loss import Combination, Context, Loss, Reduction, Stage, Trains
from .method import Method
from .registration import get, names, register
from .stages import stage_ends

import_modules(__name__, __path__)

from .distiller import Distiller  # noqa: E402 (needs the methods)
from .fsp import FSP  # noqa: E402
from .keras_loss import KerasLoss  # noqa: E402
from .none import NoDistillation  # noqa: E402
from .soft_logits import SoftLogits  # noqa: E402
from .specification import create, hyper_parameters, parse, spelled  # noqa: E402
from .sskd_svd import SSKD_SVD  # noqa: E402
from .sum import Sum  # noqa: E402

__all__ = [
    "FSP",
    "SSKD_SVD",
    "Combination",
    "Context",
    "Distiller",
    "KerasLoss",
    "Loss",
    "Method",
    "NoDistillation",
    "Reduction",
    "SoftLogits",
    "Stage",
    "Sum",
    "Trains",
    "create",
    "get",
    "hyper_parameters",
    "names",
    "parse",
    "register",
    "spelled",
    "stage_ends",
]


def __getattr__(name: str) -> type[Any]:
    """Every method by its name, as in ``distillers.AT``."""
    if name in names():
        return get(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; methods: {names()}")
