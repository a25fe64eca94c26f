"""Decoding, frame sampling, the video and text encoders, and the registry of their weights."""
