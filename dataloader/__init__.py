"""Data sets by name, and batches of them that depend on nothing but seed, epoch and index.

A data source is a function in a file of its own here, see `loading.register`.
"""

from dataloader.augmentation import Augmentation
from dataloader.batches import evaluation_batches, steps_per_epoch, training_batches
from dataloader.data import Data, Images, MemoryImages, Split, naming_damage
from dataloader.loading import (
    Outline,
    Request,
    Source,
    is_lazy,
    load,
    outline,
    register,
    sources,
)
from dataloader.scenes import Scenes, SceneSplit, is_scenes, load_scenes, scene_sources
from registry import import_modules

import_modules(__name__, __path__)

__all__ = [
    "Augmentation",
    "Data",
    "Images",
    "MemoryImages",
    "Outline",
    "Request",
    "SceneSplit",
    "Scenes",
    "Source",
    "Split",
    "evaluation_batches",
    "is_lazy",
    "is_scenes",
    "load",
    "load_scenes",
    "naming_damage",
    "outline",
    "register",
    "scene_sources",
    "sources",
    "steps_per_epoch",
    "training_batches",
]
