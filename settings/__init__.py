"""The scripts' flags: dataclasses of which each field is the flag of its name."""
