"""Times in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``: hours, minutes and seconds."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def rough_duration(seconds: float) -> str:
    """A time as exact as an estimate is: ``45 s``, ``12 min`` or ``3.5 h``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
