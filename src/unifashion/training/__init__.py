"""One trainer, its tasks, optimiser, checkpoints and processes."""
