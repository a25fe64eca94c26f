"""Importers, parity checks, benchmarks and the generator of the demo videos."""
