"""`python -m mesm.pipeline`: the same as `mesm-pipeline`."""

from mesm.pipeline.cli import main

main()
