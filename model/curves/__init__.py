"""Spans out of curves: moments of a video from the similarity of its rows to a sentence, without anything trained."""
