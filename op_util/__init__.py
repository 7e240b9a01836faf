"""The mathematics of the papers: tensors in, tensors out; nothing here knows a network."""
