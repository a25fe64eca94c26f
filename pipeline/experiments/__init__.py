"""Several runs, and what they say together."""
