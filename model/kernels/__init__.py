"""Operators with a plain form and a faster form for the CPU, of the same mathematics."""
