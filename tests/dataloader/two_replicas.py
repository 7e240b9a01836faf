"""Shares batches of a set that is read by index out over two devices, and prints how many pixels of
all batches are not those of the batches in memory (JSON).

    python two_replicas.py 2 DATA_DIR
"""

import numpy as np

import dataloader
from tests.virtual_devices import compare_all


def compare(strategy, data_dir):
    made = {
        in_memory: dataloader.training_batches(
            dataloader.load(
                "photographs", data_dir=data_dir, image_size=(16, 16), in_memory=in_memory
            ).train,
            8, seed=3, epochs=2, augmentation=dataloader.Augmentation(flip=True, crop_padding=2),
        )
        for in_memory in ("yes", "no")
    }
    shared = [
        [strategy.experimental_local_results(value) for value in (each["image"], each["index"])]
        for each in strategy.experimental_distribute_dataset(made["no"])
    ]
    whole = list(made["yes"])
    assert len(shared) == len(whole)
    different = 0
    for (images, index), batch in zip(shared, whole, strict=True):
        assert np.concatenate(index).tolist() == batch["index"].numpy().tolist()
        different += int((np.concatenate(images) != batch["image"].numpy()).sum())
    return {
        "batches": len(whole), "devices": len(shared[0][0]), "different": different,
        "largest": max(int(batch["image"].numpy().max()) for batch in whole),
    }


if __name__ == "__main__":
    compare_all(compare)
