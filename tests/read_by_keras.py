"""A network as Keras itself reads it in a new process, where it begins to number names anew."""

import keras


def read_by_keras(model, folder):
    """`model`, saved in `folder` and read again; no other network of this process can be used
    together with it."""
    file = folder / "read_by_keras.keras"
    model.save(file)
    keras.utils.clear_session()
    return keras.models.load_model(file)
