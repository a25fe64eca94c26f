"""Measure what an extraction costs beyond decoding; `mesm.tools.benchmarks.extraction` says what is measured."""

from __future__ import annotations

from collections.abc import Sequence

from mesm.pipeline.run.threads import wait_quietly


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program."""
    # After the program has said how threads wait.
    from mesm.tools.benchmarks import extraction

    extraction.main(arguments)


if __name__ == "__main__":
    wait_quietly()
    main()
