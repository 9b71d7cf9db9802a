"""Options of ``finetrainers quickstart``. Imports nothing heavy."""

import argparse
from pathlib import Path


def add_quickstart(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command, without what runs it; an option that is not given is not in the result."""
    parser = commands.add_parser(
        "quickstart",
        help="fine-tune a tiny model, and measure what it learned",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--video", action="store_true", default=False, help="videos instead of images")
    output = "folder of everything that is made (default: quickstart-run, with --video quickstart-video-run)"
    parser.add_argument("--output", type=Path, help=output)
    parser.add_argument("--device", help="cpu, cuda, ...; auto, the default, is cuda if there is one")
    parser.add_argument("--steps", type=int, help="optimizer steps; 0 trains nothing")
    parser.add_argument("--seed", type=int, help="of what is rendered, the training and the samples (default: 0)")
    return parser
