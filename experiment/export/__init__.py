"""A trained network as files that run elsewhere, and the card of what each of them costs.

- `format`: what a file format is; `formats/` has one file for each
- `serving`: the network with its preprocessing inside
- `material`: what files are made of, handed to another process
- `conversion`, `measurement`: processes that write a file, and that run it again
- `card`: the table and the picture

`format` and the modules of `formats/` load neither TensorFlow nor an interpreter before they have
to: settings read their names, and a process that measures a file loads its interpreter alone.
"""
