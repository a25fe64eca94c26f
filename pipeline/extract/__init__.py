"""Stage one: videos and queries to feature shards."""
