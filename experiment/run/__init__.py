"""One run: its folder, checkpoints, training with exact resume, and export."""
