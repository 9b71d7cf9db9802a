"""``python -m finetrainers`` is the same program, so that launchers can start it."""

from finetrainers.cli.entry import main

if __name__ == "__main__":
    raise SystemExit(main())
