"""``python -m finetrainers`` is the same program, so that launchers can start it."""

from finetrainers.cli.entry import run_program

if __name__ == "__main__":
    run_program()
