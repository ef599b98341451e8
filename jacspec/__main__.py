"""The command `jacspec`, and `python -m jacspec`: the command line as a process of its own."""

import sys

from jacspec.interrupts import catch_signals, end_interrupted, interrupted, leave


def command() -> None:
    """Run the command line; what interrupts it, imports included, ends it with one line and the signal's status."""
    catch_signals()
    try:
        # Not above: it takes a second, and Ctrl-C may come in it.
        from jacspec.cli.help import answered
        from jacspec.cli.terminal import spell_out_symbols
        from jacspec.progress import count_from_process_start

        count_from_process_start()
        spell_out_symbols()
        if not answered(sys.argv[1:]):
            from jacspec.cli.command import run_process

            run_process()
    except KeyboardInterrupt as interrupt:
        end_interrupted(interrupt)
    except Exception:
        if raised := interrupted():  # a library made another error of it
            end_interrupted(raised)
        raise
    except SystemExit as end:
        leave(end.code if isinstance(end.code, int) else 1)
        raise
    leave(0)


if __name__ == "__main__":
    command()
