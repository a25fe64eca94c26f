"""Trained networks that travel: a folder with its card, and the hub."""
