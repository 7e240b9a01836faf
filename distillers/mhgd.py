"""MHGD: the graph that attention draws between the samples of a batch, from tap to tap."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distillers.checks import in_range, positive, tap_pairs
from distillers.method import Method, Stage
from distillers.registration import register
from distillers.sskd_svd import as_matrix
from nets.layers import batch_normalization
from op_util.alignment import align_taps
from op_util.precision import at_least_float32
from op_util.singular_vectors import right_singular_vectors

CANDIDATES = 4  # of the student's vectors, for the teacher's one
ATTENTION = "attention"  # the stage


@register("MHGD")
@dataclasses.dataclass(eq=False)
class MHGD(Method):
    """Lee & Song, "Graph-based knowledge distillation by multi-head attention network", BMVC 2019.

    A sample's node at a tap is the first singular vector of its map. First an attention network
    learns, for each two neighbouring taps, to foretell the teacher's deeper nodes from its
    shallower ones; its attention is a graph between the samples of the batch. Then the student
    learns, next to the main task, to have the graph that the same network, which stands still now,
    draws of the teacher. The losses, the layers and the clipped gradient are those of the authors'
    code (KD_methods_with_TF).

    Departures: signs of vectors are canonical; which heads are dropped is drawn from epoch and
    images, so that it is the same on every replica and after a resume; the normalisation of the
    shallower nodes learns no offset, which the attention's softmax does not see.

    Args:
        heads: of the attention network.
        attention_share: of the epochs, for the first stage: the authors' 40 epochs before 100.
        drop_heads: whether in the first stage each sample does without some heads, about half.
    """

    paper = "Lee & Song, BMVC 2019, arXiv 1907.02226"
    reduction = "sum"
    combination = "clip"
    couples_samples = True

    heads: int = 8
    attention_share: float = 0.29
    drop_heads: bool = True

    def __post_init__(self) -> None:
        positive("MHGD", heads=self.heads)
        in_range("MHGD", 0, 1, attention_share=self.attention_share)
        self._attentions: list[AttentionEstimator] = []

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage(
                ATTENTION, self.attention_share, main_loss=False, trains="nothing",
                reduction="mean",
            ),
            Stage("train", 1 - self.attention_share, layers=(), new_optimizer=True),
        )

    @property
    def layers(self) -> Sequence[keras.layers.Layer]:
        return self._attentions

    def build(self, teacher_outputs: Sequence[Any], student_outputs: Sequence[Any]) -> None:
        tap_pairs("MHGD", teacher_outputs, student_outputs, at_least=2)
        channels = [tap.shape[-1] for tap in teacher_outputs]
        self._attentions = [
            AttentionEstimator(top, bottom, self.heads, name=f"attention{number}")
            for number, (top, bottom) in enumerate(itertools.pairwise(channels), start=1)
        ]

    def compute_loss(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tf.Tensor:
        """In the attention's stage `estimation_loss`, else `graph_loss`.

        Args:
            teacher_outputs, student_outputs: taps ``[B, H, W, D]`` or ``[B, D]``, shallow to deep,
                of equal D at each place.
        """
        teacher = [tf.stop_gradient(as_matrix(tap)) for tap in teacher_outputs]
        if context.get("stage") == ATTENTION:
            nodes = [right_singular_vectors(tap, 1)[1][:, :, 0] for tap in teacher]
            return self.estimation_loss(nodes, self._kept_heads(nodes[0], context))
        student = [as_matrix(tap) for tap in student_outputs]
        return self.graph_loss(*_aligned_nodes(teacher, student))

    def estimation_loss(self, teacher: Sequence[tf.Tensor], kept: tf.Tensor) -> tf.Tensor:
        """``sum over pairs of 1 - cosine(estimate, node)``, mean over the batch.

        Args:
            teacher: the taps' nodes, ``[B, D]`` of unit length.
            kept: ``[heads, B, 1]``, 1 where a sample makes use of a head, else 0.
        """
        loss = 0.0
        for attention, (top, bottom) in self._pairs(teacher):
            found = attention.estimate(top, attention.graph(top, bottom, training=True), kept)
            similarity = tf.reduce_sum(found * tf.cast(bottom, found.dtype), axis=1)
            loss += tf.reduce_mean(1 - similarity)
        return loss

    def graph_loss(self, teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]) -> tf.Tensor:
        """``KL(softmax(tanh(G_student)) || softmax(tanh(G_teacher)))``, summed over pairs, heads
        and samples.

        Args:
            teacher, student: the taps' nodes, ``[B, D]`` of unit length.
        """
        loss = 0.0
        for attention, theirs, ours in self._pairs(teacher, student):
            g_teacher, g_student = (
                tf.nn.log_softmax(tf.tanh(attention.graph(*nodes, training=False)))
                for nodes in (theirs, ours)
            )
            difference = g_student - tf.stop_gradient(g_teacher)
            loss += tf.reduce_sum(tf.exp(g_student) * difference)
        return loss

    def _pairs(self, *networks: Sequence[tf.Tensor]) -> Any:
        """For each two neighbouring taps its attention, and of each network top and bottom."""
        return zip(self._attentions, *map(itertools.pairwise, networks), strict=True)

    def _kept_heads(self, nodes: tf.Tensor, context: dict[str, Any]) -> tf.Tensor:
        """``[heads, B, 1]``, 1 or 0: a sample keeps the heads whose noise is above its mean."""
        shape = [self.heads, tf.shape(nodes)[0], 1]
        if not self.drop_heads or self.heads == 1:
            return tf.ones(shape)
        images = tf.reduce_sum(tf.cast(context.get("indices", 0), tf.int64))
        seed = tf.stack([tf.cast(context.get("epoch", 0), tf.int64), images])
        noise = tf.random.stateless_normal(shape, seed)
        return tf.cast(noise > tf.reduce_mean(noise, axis=0, keepdims=True), tf.float32)


class AttentionEstimator(keras.layers.Layer):
    """Attention between the samples of a batch that foretells their deeper nodes.

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

    def graph(self, top: tf.Tensor, bottom: tf.Tensor, training: bool) -> tf.Tensor:
        """``G [heads, B, B]``: how much a sample's deeper node (row) has to do with all samples'
        shallower ones (columns).

        Args:
            top, bottom: nodes ``[B, D_top]`` and ``[B, D_bottom]``.
            training: whether to normalise by the batch.
        """
        key = self.key_normalization(self.key(bottom), training=training)
        query = self.query_normalization(self.query(top), training=training)
        return tf.einsum("bdh,cdh->hbc", self._by_head(key), self._by_head(query))

    def estimate(self, top: tf.Tensor, graph: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        """The deeper nodes ``[B, D_bottom]``, of unit length, as the shallower ones along the graph
        foretell them; normalised by the batch.

        Args:
            top: nodes ``[B, D_top]``.
            graph: ``[heads, B, B]``.
            kept: ``[heads, B, 1]``, by which each sample's attention is multiplied.
        """
        value = tf.nn.relu(self.value_normalization(self.value(top), training=True))
        gathered = tf.einsum("hbc,cd->bdh", tf.nn.softmax(graph) * kept, value)
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


def _aligned_nodes(
    teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """The nodes ``[B, D]`` of matrices ``[B, N, D]`` of both networks, the student's being that of
    its candidates which is most like the teacher's, up to its sign.

    Both have the sign that is the teacher's canonical one: it was trained on.
    """
    theirs, ours = [], []
    aligned = align_taps(
        student, teacher, 1, candidates=CANDIDATES,
        gradient="exact", orientation="canonical", solver="auto",
    )
    for maps, one in zip(teacher, aligned, strict=True):
        mean = tf.cast(tf.reduce_mean(at_least_float32(maps), axis=1), one.teacher.dtype)
        response = tf.einsum("bd,bdk->bk", mean, one.teacher)
        sign = tf.where(response < 0, -tf.ones_like(response), tf.ones_like(response))
        theirs.append(sign * one.teacher[:, :, 0])
        ours.append(sign * one.student[:, :, 0])
    return theirs, ours
