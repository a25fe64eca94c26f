"""Feature shards: immutable files that appear whole or not at all."""
