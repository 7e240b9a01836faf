"""What every script shares.

- `command`: the command line
- `run`: one run, from its folder to its export
- `grid`: many runs
- `report`: tables and pictures

Knows no data set, no network and no method: it is given Keras models, variables, arrays and
dicts. Modules are imported one by one (``from experiment.run.folder import RunFolder``), so that
a script answers `--help` and a wrong flag without loading TensorFlow.
"""
