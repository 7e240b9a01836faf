"""Regularizers between the tasks' embeddings, one file each. Every module here is imported."""

from registry import import_modules

import_modules(__name__, __path__)
