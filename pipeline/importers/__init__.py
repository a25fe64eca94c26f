"""Released features and checkpoints."""
