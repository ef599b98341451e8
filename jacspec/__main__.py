"""`python -m jacspec` and the command `jacspec`: the command line as a process of its own."""

from jacspec.interrupts import catch_signals, end_interrupted
from jacspec.progress import count_from_process_start


def command() -> None:
    """Run the command line; what interrupts it, imports included, ends it with one line and the signal's status."""
    count_from_process_start()
    catch_signals()
    try:
        from jacspec.cli.command import run_process  # not above: it takes a second, and Ctrl-C may come in it

        run_process()
    except KeyboardInterrupt as interrupt:
        end_interrupted(interrupt)


if __name__ == "__main__":
    command()
