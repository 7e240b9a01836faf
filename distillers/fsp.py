"""FSP: the flow of the solution procedure, the student's inner products between layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import tensorflow as tf

from distillers.adapters import Adapters, channels_read
from distillers.loss import Combination, Loss, Stage, Trains
from distillers.method import Method, with_context
from distillers.reading import Maps, size_text
from distillers.registration import register
from op_util.pooling import adaptive_average_pool
from plugins import option
from registry import UserError


def fsp_matrix(top: tf.Tensor, bottom: tf.Tensor) -> tf.Tensor:
    """``G = top^T bottom / (H W)``: the FSP matrix of two neighbouring maps (Yim et al., eq. 1).

    Args:
        top: ``[B, H, W, D_top]``; max-pooled by 2 where it is taller than `bottom`.
        bottom: ``[B, H', W', D_bottom]``.

    Returns:
        ``[B, D_top, D_bottom]``, at least float32.
    """
    if top.shape[1] > bottom.shape[1]:
        top = tf.nn.max_pool2d(top, 2, 2, "SAME")
    return _inner_products(top, bottom)


def averaged_fsp_matrix(top: tf.Tensor, bottom: tf.Tensor) -> tf.Tensor:
    """`fsp_matrix` as RepDistiller has it: the larger map is averaged to the smaller one's size.

    Args and returns as `fsp_matrix`.
    """
    size = tuple(map(min, top.shape[1:3], bottom.shape[1:3]))
    return _inner_products(*(adaptive_average_pool(maps, size) for maps in (top, bottom)))


def _inner_products(top: tf.Tensor, bottom: tf.Tensor) -> tf.Tensor:
    """``sum over positions of top bottom^T``, divided by their number: ``[B, D_top, D_bottom]``."""
    positions = bottom.shape[1] * bottom.shape[2]
    top = tf.reshape(top, [-1, top.shape[1] * top.shape[2], top.shape[3]])
    bottom = tf.reshape(bottom, [-1, positions, bottom.shape[3]])
    return tf.matmul(top, bottom, transpose_a=True) / positions


def fsp_loss(teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]) -> tf.Tensor:
    """``sum over pairs of mean over batch of ||G_student - G_teacher||^2 / 2``, divided by the
    number of entries of all the G of one image, G the `fsp_matrix`: as the published code of Lee et
    al. (2018) compares it.

    Args:
        teacher, student: maps ``[B, H, W, D]``, shallow to deep, of equal D in each pair.
    """
    squares = _squared_differences(teacher, student, fsp_matrix)
    entries = sum(one.shape[1] * one.shape[2] for one in squares)
    return sum(tf.reduce_mean(tf.reduce_sum(one, axis=[1, 2])) / 2 for one in squares) / entries


def averaged_fsp_loss(teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]) -> tf.Tensor:
    """``sum over pairs of mean over batch and entries of (G_student - G_teacher)^2``, G the
    `averaged_fsp_matrix`: RepDistiller's definition. Args as for `fsp_loss`."""
    squares = _squared_differences(teacher, student, averaged_fsp_matrix)
    return sum(tf.reduce_mean(one) for one in squares)


def _squared_differences(
    teacher: Sequence[tf.Tensor],
    student: Sequence[tf.Tensor],
    matrix: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> list[tf.Tensor]:
    """``(G_student - G_teacher)^2 [B, D_top, D_bottom]`` for each two neighbouring maps."""
    theirs, ours = ([matrix(*pair) for pair in pairwise(maps)] for maps in (teacher, student))
    return [tf.square(s - t) for t, s in zip(theirs, ours, strict=True)]


LOSSES = {"sskd_svd": fsp_loss, "repdistiller": averaged_fsp_loss}


@register("FSP")
class FSP(Method):
    """Yim, Joo, Bae & Kim, "A gift from knowledge distillation", CVPR 2017.

    Departure: by default it is trained as Lee, Kim & Song (2018) compare it: next to the main task,
    its gradient clipped against the main task's, but to a part of that task's norm (`clip`), as at
    their 1 students of few steps can end below those that learn alone. With `staged`, as its own
    paper has it: first the layers up to the deepest tap learn this loss alone, then the whole
    student the main task alone.

    Args:
        staged: whether to train in the paper's two stages.
        init_share: share of the epochs for the first stage of two: RepDistiller's 30 epochs before
            240.
        clip: the largest norm of this loss's gradient, as a multiple of the main task's (Lee et
            al.: 1). Without effect if `staged`.
        definition: ``"sskd_svd"``: summed and scaled as in the published code of Lee et al.;
            ``"repdistiller"``: as in RepDistiller, where maps of any two sizes can be neighbours.
        adapter: see `SSKD_SVD`.
    """

    paper = "Yim et al., CVPR 2017"
    combination = Combination.CLIP

    staged: bool = option(False)
    init_share: float = option(0.11, minimum=0, maximum=1)
    clip: float = option(0.6, above=0)
    definition: str = option("sskd_svd", choices=("sskd_svd", "repdistiller"))
    adapter: str = option("auto", choices=("auto", "none"))

    @property
    def reads(self) -> Maps:  # type: ignore[override]
        return Maps(at_least=2, channels=channels_read(self.adapter), vectors="skip")

    def loss(self, teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]) -> tf.Tensor:
        return LOSSES[self.definition](teacher, student)

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        self.check_features(teacher, student)
        pairs = self.reads.pairs(teacher, student)
        if self.definition == "sskd_svd":
            check_neighbours("teacher", [theirs for theirs, _ in pairs])
            check_neighbours("student", [ours for _, ours in pairs])
        if not self.staged:
            return self.make_loss(teacher, student)
        adapters = Adapters(pairs)
        maps = tuple(number for number, tap in enumerate(student) if len(tap.shape) == 4)
        init = Stage(
            "init", self.init_share, loss=adapters.before(with_context(self.loss, self.name)),
            main_weight=0, trains=Trains.TO_TAPS, taps=maps, layers=adapters.layers,
        )
        train = Stage("train", 1 - self.init_share, new_optimizer=True)
        return Loss(self, [init, train], layers=adapters.layers, notes=adapters.notes)


def check_neighbours(network: str, maps: Sequence[Any]) -> None:
    """Raise UserError unless `fsp_matrix` can relate each map to the next."""
    for number, (top, bottom) in enumerate(pairwise(maps), start=1):
        pooled = 2 if top.shape[1] > bottom.shape[1] else 1
        if tuple(-(-size // pooled) for size in top.shape[1:3]) != tuple(bottom.shape[1:3]):
            sizes = (size_text(maps.shape[1:3]) for maps in (top, bottom))
            raise UserError(
                f"FSP needs neighbouring maps of equal size, or the first of two twice as large: "
                f"taps {number} and {number + 1} of the {network} are {' and '.join(sizes)} "
                f"(definition=repdistiller takes any)"
            )
