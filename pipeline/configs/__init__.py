"""The shipped configuration files, one for each setting of the paper, and the demo."""
