"""The register of pretext tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from registry import Registry, UserError

TASKS = Registry("pretext task")


def register(name: str) -> Callable[[type[Any]], type[Any]]:
    """Decorator that makes a `pretext.task.Task` known as `name`, and lets it know its name."""

    def add(task: type[Any]) -> type[Any]:
        task.name = name
        return TASKS.register(name)(task)

    return add


def get(name: str) -> type[Any]:
    """The task's class. Raises `registry.UserError`, naming the nearest, for an unknown name."""
    return TASKS.get(name)


def names() -> list[str]:
    """Names of all tasks."""
    return TASKS.names()


def parse(tasks: str) -> list[str]:
    """``"rotation,Jigsaw"`` as a list of names as they are registered.

    Raises:
        UserError: no task, an unknown one, or one twice.
    """
    found = [TASKS.name(name.strip()) for name in tasks.split(",") if name.strip()]
    if not found:
        raise UserError(f"no task in {tasks!r}; known: {', '.join(names())}")
    for name in found:
        if found.count(name) > 1:
            raise UserError(f"task {name!r} is named twice in {tasks!r}: once is enough")
    return found


def create(
    name: str, image_shape: Sequence[int], minimum_size: int = 1, **hyper_parameters: Any
) -> Any:
    """The task `name` for images of one shape.

    Args:
        name: a registered name; case, ``-`` and ``_`` do not matter.
        image_shape: (height, width, channels) of the images.
        minimum_size: the least height and width that the encoder takes, in pixels.
        **hyper_parameters: fields of the task's class.

    Raises:
        UserError: unknown task, or one that cannot work on such images.
    """
    height, width, channels = map(int, image_shape)
    return get(name)((height, width, channels), int(minimum_size), **hyper_parameters)
