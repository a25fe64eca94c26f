"""`mesm-pipeline`, and `python -m mesm.pipeline`: Ctrl-C is answered from the first module on."""

from mesm.pipeline.run.interrupts import answer_interrupts


def main() -> None:
    """Run the command line and exit with its code."""
    answer_interrupts()
    from mesm.pipeline.cli import main as run

    run()


if __name__ == "__main__":
    main()
