"""Attacks on what the stages write: kills, full disks, several processes at once, flipped bits."""
