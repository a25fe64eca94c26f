"""What `python -m mesm.tools.bench` and `python -m mesm.tools.benchmark_extraction` measure."""
