"""MHGD: the graph that attention draws between the samples of a batch, from tap to tap."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from distillers.adapters import Adapters
from distillers.loss import Combination, Loss, Reduction, Stage
from distillers.method import Method, with_context
from distillers.reading import Maps
from distillers.registration import register
from distillers.samples import sum_over_good
from distillers.singular_vectors import svd_taps
from nets.layers import batch_normalization
from op_util.alignment import align_taps
from op_util.matrices import as_matrix
from op_util.singular_vectors import right_singular_vectors
from plugins import option

CANDIDATES = 4  # of the student's vectors, for the teacher's one
NOWHERE = -1e30  # a log-probability of zero for a sample that is dropped


def graph_divergence(teacher: tf.Tensor, student: tf.Tensor, good: tf.Tensor) -> tf.Tensor:
    """``KL(softmax(tanh(G_student)) || softmax(tanh(G_teacher)))`` of each sample, summed over
    heads (section 3.3).

    Args:
        teacher, student: graphs G ``[heads, B, B]``; each row is a sample's attention to all.
        good: bool ``[B]``; the others are in no sample's attention.

    Returns:
        ``[B]``.
    """
    theirs, ours = (
        tf.nn.log_softmax(tf.where(good, tf.tanh(graph), NOWHERE)) for graph in (teacher, student)
    )
    return tf.reduce_sum(tf.exp(ours) * (ours - theirs), axis=[0, 2])


def estimation_error(estimate: tf.Tensor, node: tf.Tensor) -> tf.Tensor:
    """``1 - cosine(estimate, node)`` of each sample ``[B]``, of unit vectors ``[B, D]`` (section
    3.2)."""
    return 1 - tf.reduce_sum(estimate * tf.cast(node, estimate.dtype), axis=1)


class Nodes(NamedTuple):
    """The samples' nodes at a tap, the first singular vectors of their maps.

    Attributes:
        vectors: ``[B, D]`` of unit length, or zero.
        good: bool ``[B]``, False where a sample's map is not finite; its vector is zero.
    """

    vectors: tf.Tensor
    good: tf.Tensor


class AttentionEstimator(keras.layers.Layer):
    """Attention between the samples of a batch that predicts their deeper nodes. Samples that are
    not `good` have no part in it.

    Args:
        top, bottom: channels of the shallower and the deeper tap.
        heads: how many graphs it draws.
    """

    def __init__(self, top: int, bottom: int, heads: int, name: str):
        super().__init__(dtype="float32", name=name)
        self.heads = heads
        width = (top + bottom) // 2
        self.key = self._dense("key", bottom, width * heads)
        self.query = self._dense("query", top, width * heads)
        self.value = self._dense("value", top, width)
        self.estimator = self._dense("estimator", width * heads, bottom, use_bias=True)
        self.key_normalization = self._normalization("key", width * heads)
        self.query_normalization = self._normalization("query", width * heads, center=False)
        self.value_normalization = self._normalization("value", width)
        self.built = True

    def graph(
        self, top: tf.Tensor, bottom: tf.Tensor, good: tf.Tensor, training: bool
    ) -> tf.Tensor:
        """``G [heads, B, B]``: how much a sample's deeper node (row) has to do with all samples'
        shallower ones (columns).

        Args:
            top, bottom: nodes ``[B, D_top]`` and ``[B, D_bottom]``.
            good: bool ``[B]``, which samples the batch's statistics are of.
            training: whether to normalise by the batch.
        """
        key = self.key_normalization(self.key(bottom), training=training, mask=good)
        query = self.query_normalization(self.query(top), training=training, mask=good)
        return tf.einsum("bdh,cdh->hbc", self._by_head(key), self._by_head(query))

    def estimate(
        self, top: tf.Tensor, graph: tf.Tensor, kept: tf.Tensor, good: tf.Tensor, training: bool
    ) -> tf.Tensor:
        """The deeper nodes ``[B, D_bottom]``, of unit length, as predicted from the shallower ones
        along the graph.

        Args:
            top: nodes ``[B, D_top]``.
            graph: ``[heads, B, B]``.
            kept: ``[heads, B, 1]``, by which each sample's attention is multiplied.
            good, training: see `graph`.
        """
        value = self.value_normalization(self.value(top), training=training, mask=good)
        attention = tf.nn.softmax(tf.where(good, graph, NOWHERE)) * kept
        gathered = tf.einsum("hbc,cd->bdh", attention, tf.nn.relu(value))
        flat = tf.reshape(gathered, [-1, value.shape[1] * self.heads])
        return tf.nn.l2_normalize(self.estimator(flat), axis=1)

    def _by_head(self, nodes: tf.Tensor) -> tf.Tensor:
        return tf.reshape(nodes, [-1, nodes.shape[1] // self.heads, self.heads])

    def _dense(
        self, what: str, inputs: int, units: int, use_bias: bool = False
    ) -> keras.layers.Dense:
        layer = keras.layers.Dense(
            units, use_bias=use_bias, dtype="float32", name=f"{self.name}_{what}"
        )
        layer.build((None, inputs))
        return layer

    def _normalization(
        self, what: str, channels: int, center: bool = True
    ) -> keras.layers.BatchNormalization:
        layer = batch_normalization(f"{self.name}_{what}_bn", dtype="float32", center=center)
        layer.build((None, channels))
        return layer


def estimation_loss(
    attentions: Sequence[AttentionEstimator], teacher: Sequence[Nodes], kept: tf.Tensor,
    training: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The sum over pairs of neighbouring taps of the mean over good samples of
    `estimation_error`.

    Args:
        attentions: one for each pair.
        teacher: the taps' nodes, shallow to deep.
        kept: ``[heads, B, 1]``, 1 where a sample makes use of a head, else 0.
        training: whether to normalise by the batch.

    Returns:
        The loss, and the share of dropped samples, a mean over pairs.
    """
    loss, dropped = 0.0, 0.0
    for attention, (top, bottom) in zip(attentions, pairwise(teacher), strict=True):
        good = top.good & bottom.good
        graph = attention.graph(top.vectors, bottom.vectors, good, training)
        estimate = attention.estimate(top.vectors, graph, kept, good, training)
        error, share = sum_over_good(estimation_error(estimate, bottom.vectors), good)
        loss += error / tf.cast(tf.size(good), error.dtype)
        dropped += share / len(attentions)
    return loss, dropped


def graph_loss(
    attentions: Sequence[AttentionEstimator], teacher: Sequence[Nodes], student: Sequence[Nodes]
) -> tuple[tf.Tensor, tf.Tensor]:
    """The sum over pairs of neighbouring taps of `graph_divergence`, summed over the batch. The
    attention is not trained by it, and normalises by its own statistics.

    Args and returns as for `estimation_loss`. A sample that is dropped makes the others count
    ``B / good``.
    """
    loss, dropped = 0.0, 0.0
    pairs = zip(attentions, pairwise(teacher), pairwise(student), strict=True)
    for attention, theirs, ours in pairs:
        good = theirs[0].good & theirs[1].good & ours[0].good & ours[1].good
        g_teacher, g_student = (
            attention.graph(top.vectors, bottom.vectors, good, training=False)
            for top, bottom in (theirs, ours)
        )
        divergence = graph_divergence(tf.stop_gradient(g_teacher), g_student, good)
        total, share = sum_over_good(divergence, good)
        loss += total
        dropped += share / len(attentions)
    return loss, dropped


@register("MHGD")
class MHGD(Method):
    """Lee & Song, "Graph-based knowledge distillation by multi-head attention network", BMVC 2019.

    A sample's node at a tap is the first singular vector of its map. First an attention network
    learns, for each two neighbouring taps, to predict the teacher's deeper nodes from its shallower
    ones; its attention is a graph between the samples of the batch. Then, next to the main
    task, the student is trained so that the frozen network draws the same graph from its nodes as
    from the teacher's. The losses, the layers and the clipped gradient are those of the authors'
    code (KD_methods_with_TF).

    Departures: while the attention learns, the student learns the main task already (in the
    authors' code it waits, which costs it as many epochs); the gradient is clipped to less than the
    main task's norm (`clip`), as in short runs the graph costs the task more than it gives; signs
    of vectors are canonical; which heads are dropped is drawn from epoch and images, so that it is
    the same on every replica and after a resume; the normalisation of the shallower nodes learns no
    offset, which the attention's softmax does not see; a sample that is not finite is left out of
    the graph.

    Args:
        heads: number of attention heads.
        attention_share: share of the epochs for the first stage: the authors' 40 epochs before 100.
        clip: the largest norm of the graph's gradient, as a multiple of the main task's (theirs is
            1).
        drop_heads: whether in the first stage each sample does without some heads, about half.
        adapter: see `SSKD_SVD`.
    """

    paper = "Lee & Song, BMVC 2019, arXiv 1907.02226"
    reduction = Reduction.SUM
    combination = Combination.CLIP
    couples_samples = True
    metrics = ("dropped_share",)

    heads: int = option(8, minimum=1)
    attention_share: float = option(0.29, minimum=0, maximum=1)
    clip: float = option(0.3, above=0)
    drop_heads: bool = option(True)
    adapter: str = option("auto", choices=("auto", "none"))

    @property
    def reads(self) -> Maps:  # type: ignore[override]
        return svd_taps(self.adapter)

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        notes = self.check_features(teacher, student)
        pairs = self.reads.pairs(teacher, student)
        adapters = Adapters(pairs)
        channels = [theirs.shape[-1] for theirs, _ in pairs]
        attentions = [
            AttentionEstimator(top, bottom, self.heads, name=f"attention{number}")
            for number, (top, bottom) in enumerate(pairwise(channels), start=1)
        ]

        def estimate(
            teacher: Any, student: Any, *, training: bool, epoch: Any = None, indices: Any = None
        ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            nodes = [teacher_nodes(as_matrix(tap)) for tap in teacher]
            kept = self._kept_heads(nodes[0].vectors, epoch, indices)
            loss, dropped = estimation_loss(attentions, nodes, kept, training)
            return loss, {"dropped_share": dropped}

        def compare(teacher: Any, student: Any) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            networks = ([as_matrix(tap) for tap in taps] for taps in (teacher, student))
            loss, dropped = graph_loss(attentions, *aligned_nodes(*networks))
            return loss, {"dropped_share": dropped}

        attention = Stage(
            "attention", self.attention_share, loss=with_context(estimate, self.name),
            layers=attentions, reduction=Reduction.MEAN, combination=Combination.ADD,
        )
        train = Stage(
            "train", 1 - self.attention_share, clip=self.clip,
            loss=adapters.before(with_context(compare, self.name)), layers=adapters.layers,
            reduction=self.reduction,
        )
        layers = [*attentions, *adapters.layers]
        return Loss(self, [attention, train], layers=layers, notes=[*notes, *adapters.notes])

    def _kept_heads(self, vectors: tf.Tensor, epoch: Any, indices: Any) -> tf.Tensor:
        """``[heads, B, 1]``, 1 or 0: a sample keeps the heads whose noise is above its mean.

        Args:
            vectors: the shallowest nodes' ``[B, D]``, by which batches differ without indices.
            epoch, indices: of the batch, by which the noise is drawn; None: unknown.
        """
        shape = [self.heads, tf.shape(vectors)[0], 1]
        if not self.drop_heads or self.heads == 1:
            return tf.ones(shape)
        if indices is None:
            bits = tf.bitcast(tf.cast(tf.reduce_sum(vectors), tf.float32), tf.int32)
            images = tf.cast(bits, tf.int64)
        else:
            images = tf.reduce_sum(tf.cast(indices, tf.int64))
        seed = tf.stack([tf.cast(0 if epoch is None else epoch, tf.int64), images])
        noise = tf.random.stateless_normal(shape, seed)
        return tf.cast(noise > tf.reduce_mean(noise, axis=0, keepdims=True), tf.float32)


def teacher_nodes(matrices: tf.Tensor) -> Nodes:
    """The nodes of matrices ``[B, N, D]``, without a gradient."""
    _, vectors = right_singular_vectors(tf.stop_gradient(matrices), 1)
    return Nodes(vectors[:, :, 0], tf.reduce_all(tf.math.is_finite(matrices), axis=[1, 2]))


def aligned_nodes(
    teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]
) -> tuple[list[Nodes], list[Nodes]]:
    """The nodes of matrices ``[B, N, D]`` of both networks, shallow to deep. The student's is the
    one of its candidates most like the teacher's, up to its sign.

    Both have the sign that is the teacher's canonical one, on which the attention was trained.
    """
    theirs, ours = [], []
    aligned = align_taps(
        list(student), list(teacher), 1, candidates=CANDIDATES,
        gradient="exact", orientation="canonical", solver="auto",
    )
    for maps, one in zip(teacher, aligned, strict=True):
        mean = tf.cast(tf.reduce_mean(maps, axis=1), one.teacher.dtype)
        response = tf.einsum("bd,bdk->bk", mean, one.teacher)
        sign = tf.where(response < 0, -tf.ones_like(response), tf.ones_like(response))
        theirs.append(Nodes(sign * one.teacher[:, :, 0], one.good))
        ours.append(Nodes(sign * one.student[:, :, 0], one.good))
    return theirs, ours
