"""What every training script shares: run folder, checkpoints, epoch loop, report, export.

Knows no data set, no network and no method: it is given Keras models, variables, arrays and
dicts. Its modules are imported one by one (``from experiment.folder import RunFolder``), so that a
script can read its flags, and answer a wrong one, before TensorFlow is loaded.
"""
