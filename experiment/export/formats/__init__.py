"""File formats, one file each. Every module in this folder is imported."""

from registry import import_modules

import_modules(__name__, __path__)
