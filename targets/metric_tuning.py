"""Short supervised fine-tuning for metric learning."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import nets
from dataloader import Split
from targets.embeddings import embeddings, normalised
from targets.training import Trainer, labelled_batches


def metric_tuned(
    encoder: nets.Encoder,
    split: Split,
    *,
    seed: int = 0,
    steps: int = 200,
    learning_rate: float = 1e-4,
    batch_size: int = 32,
    temperature: float = 0.05,
    flip: bool = False,
) -> nets.Encoder:
    """Fine-tune a copy of `encoder` with the normalised softmax loss and one proxy per class.

    The loss is ``-log softmax_c(cos(e(x), p_c) / temperature)`` at the image's class c (Zhai & Wu,
    "Classification is a strong baseline for deep metric learning", BMVC 2019). The proxies p_c are
    trained too; each starts as the mean of its class's embeddings.

    Args:
        encoder: the encoder to start from; it is not changed.
        split: labelled images.
        seed: random seed for the order of the images.
        steps, batch_size: number of steps and batch size of fine-tuning.
        learning_rate: the initial learning rate, decayed along a cosine.
        temperature: divides the cosines.
        flip: whether to mirror images at random.

    Returns:
        The fine-tuned copy.
    """
    tuned = nets.trainable_copy(encoder)
    vectors = normalised(embeddings(encoder, split))
    classes = np.unique(split.labels)
    means = np.stack([vectors[split.labels == label].mean(0) for label in classes])
    proxies = keras.Variable(normalised(means), name="proxies")

    def loss(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        embedding = tuned.model(tuned.standardize(images), training=True)["embedding"]
        cosines = tf.matmul(
            tf.nn.l2_normalize(embedding, 1), tf.nn.l2_normalize(proxies.value, 1),
            transpose_b=True,
        )
        places = tf.searchsorted(tf.constant(classes), labels)
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(places, cosines / temperature)
        )

    model = tuned.model
    trained = [*model.trainable_variables, proxies]
    trainer = Trainer(loss, trained, model.non_trainable_variables, steps)
    batches = labelled_batches(split, batch_size, steps=steps, seed=seed, flip=flip)
    trainer.train(batches, learning_rate)
    return tuned
