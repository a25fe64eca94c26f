"""Files of weights: where they come from, how they are checked and read."""
