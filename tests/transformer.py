"""A small vision transformer made by hand, whose blocks are hidden in one layer."""

import keras


class Block(keras.layers.Layer):
    """Attention and a layer for each token, each after a normalisation and added to its input."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.LayerNormalization(name="norm")
        # Without the keys' bias, which changes nothing.
        self.attention = keras.layers.MultiHeadAttention(1, width, use_bias=False, name="attention")
        self.second_norm = keras.layers.LayerNormalization(name="second_norm")
        self.dense = keras.layers.Dense(width, activation="gelu", name="dense")

    def build(self, shape):
        self.attention.build(shape, shape)
        for layer in (self.norm, self.second_norm, self.dense):
            layer.build(shape)
        self.built = True

    def mix(self, tokens):
        normal = self.norm(tokens)
        return tokens + self.attention(normal, normal)

    def call(self, tokens):
        mixed = self.mix(tokens)
        return mixed + self.dense(self.second_norm(mixed))


class Encoder(keras.layers.Layer):
    """A class token, blocks, and a normalisation: no functional model."""

    def __init__(self, depth, width, **kwargs):
        super().__init__(**kwargs)
        self.final = keras.layers.LayerNormalization(name="final")
        self.drop = keras.layers.Dropout(0.5, name="drop")
        self.blocks = [Block(width, name=f"block_{i}") for i in range(depth)]

    def build(self, shape):
        self.first = self.add_weight(shape=(1, 1, shape[-1]), name="class")
        for layer in (*self.blocks, self.final):
            layer.build((*shape[:1], shape[1] + 1, shape[2]))
        self.built = True

    def call(self, patches):
        first = keras.ops.repeat(self.first, keras.ops.shape(patches)[0], axis=0)
        tokens = self.drop(keras.ops.concatenate([first, patches], axis=1))
        for block in self.blocks:
            tokens = block(tokens)
        return self.final(tokens)


def transformer(classes=5, width=6, name="vit"):
    """From 8x8x3 images by 4x4 patches, with a class token, to logits ``scores``."""
    image = keras.Input((8, 8, 3))
    patches = keras.layers.Conv2D(width, 2, strides=2, name="patches")(image)
    tokens = keras.layers.Reshape((16, width), name="sequence")(patches)
    tokens = Encoder(3, width, name="encoder")(tokens)
    token = keras.layers.Identity(name="token")(tokens[:, 0])
    return keras.Model(image, keras.layers.Dense(classes, name="scores")(token), name=name)
