"""Reading variables into arrays and back, exactly, whatever the distribution strategy."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experiment.run.workers import ALONE, Team
from registry import UserError


def numbered(variables: Iterable[Any]) -> dict[str, Any]:
    """`variables` under the names ``"0000"``, ``"0001"`` ...

    The names of Keras layers count up within a process, those of optimizer variables are made of
    them: the place in a list is the same in every process.
    """
    return {f"{place:04d}": variable for place, variable in enumerate(variables)}


def _value(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def _parts(value: Any) -> tuple[Any, ...]:
    """The variables that a distributed one has on its replicas; any other one itself."""
    return tuple(getattr(value, "values", (value,)))


def _is_sum(value: Any) -> bool:
    """Whether the parts are written apart and summed when read, as those of metrics are."""
    return value.synchronization == tf.VariableSynchronization.ON_READ


def _array(part: Any) -> np.ndarray:
    return tf.convert_to_tensor(part).numpy()


def read(variable: Any) -> np.ndarray:
    """The value of a Keras or TensorFlow variable, in its own dtype; under a distribution strategy
    that of the first replica."""
    return _array(_parts(_value(variable))[0])


def read_all(variables: Mapping[str, Any], team: Team = ALONE) -> dict[str, np.ndarray]:
    """`read` of each; where replicas differ, also ``name@1``, ``name@2`` ... of the others.

    They differ in metrics, and in batch normalisation that is not synchronised.

    Args:
        variables: by name; the same in all workers.
        team: the workers, all of which call this and get the same.
    """
    parts = {
        name: [_array(part) for part in _parts(_value(variable))]
        for name, variable in variables.items()
    }
    if team.size > 1:
        sums = {name for name, variable in variables.items() if _is_sum(_value(variable))}
        parts |= _of_all_workers(parts, sums, team)
    arrays = {}
    for name, variable in variables.items():
        first, *others = parts[name]
        arrays[name] = first
        if _is_sum(_value(variable)) or any(
            other.tobytes() != first.tobytes() for other in others
        ):
            arrays.update({f"{name}@{place}": other for place, other in enumerate(others, 1)})
    return arrays


def _of_all_workers(
    parts: Mapping[str, list[np.ndarray]], sums: Collection[str], team: Team
) -> dict[str, list[np.ndarray]]:
    """The parts on all workers, in their order, of sums and of all else in which workers differ.

    Args:
        parts: on this worker, by the variable's name.
        sums: the names of variables whose parts are summed when read.
        team: the workers.
    """
    digests = {
        name: hashlib.sha256(b"".join(part.tobytes() for part in own)).hexdigest()
        for name, own in parts.items()
    }
    told = team.exchange(digests)
    different = [
        name for name in parts if name in sums or len({each[name] for each in told}) > 1
    ]
    own = b"".join(part.tobytes() for name in different for part in parts[name])
    found: dict[str, list[np.ndarray]] = {name: [] for name in different}
    for content in team.exchange_bytes(own):
        start = 0
        for name in different:
            for like in parts[name]:
                values = np.frombuffer(content, like.dtype, like.size, start)
                found[name].append(values.reshape(like.shape))
                start += like.nbytes
    return found


def _assign(variable: Any, saved: list[np.ndarray], team: Team) -> None:
    """Set this worker's parts to those that were saved, be there as many in all or not."""
    value = _value(variable)
    parts = _parts(value)
    count = len(parts) * team.size
    if len(saved) != count:
        if _is_sum(value):
            saved = [sum(saved[1:], saved[0])] + [np.zeros_like(saved[0])] * (count - 1)
        else:
            saved = saved[:1] * count
    first = len(parts) * team.index
    for part, array in zip(parts, saved[first : first + len(parts)], strict=True):
        part.assign(array)


def _described(shape: tuple[int, ...], dtype: Any) -> str:
    return f"{np.dtype(dtype).name}{list(shape)}"


def restore(
    variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray], what: str, team: Team = ALONE
) -> None:
    """Set each variable to what `read_all` gave of it.

    Args:
        what: what the variables are, for the error message.
        team: the workers, each of which sets its own devices' variables.

    Raises:
        UserError: names, shapes or dtypes are not the same; nothing is set then.
    """
    others: dict[str, list[np.ndarray]] = {name: [] for name in variables}
    saved = {}
    for name, array in arrays.items():
        variable, mark, _ = name.rpartition("@")
        if mark and variable in others:
            others[variable].append(array)
        else:
            saved[name] = array
    missing = [name for name in variables if name not in saved]
    unknown = [name for name in saved if name not in variables]
    if missing or unknown:
        raise UserError(
            f"the checkpoint does not fit the {what}: it has {len(saved)} variables, expected "
            f"{len(variables)}" + (f"; missing {missing[0]!r}" if missing else "")
            + (f"; unknown {unknown[0]!r}" if unknown else "")
        )
    for name, variable in variables.items():
        now, old = read(variable), saved[name]
        if now.shape != old.shape or now.dtype != old.dtype:
            raise UserError(
                f"the checkpoint does not fit the {what}: {name!r} is "
                f"{_described(old.shape, old.dtype)} there, expected "
                f"{_described(now.shape, now.dtype)}"
            )
    for name, variable in variables.items():
        _assign(variable, [saved[name], *others[name]], team)
