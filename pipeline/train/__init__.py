"""Stage two: shards to checkpoints."""
