"""``finetrainers export``: writes trained weights in the files that other programs read."""

import argparse
import sys
from pathlib import Path

from finetrainers.cli.imports import uncollected

FORMATS = ("comfyui", "kohya", "diffusers", "fused")
DTYPES = ("bf16", "fp16", "fp32")


def add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    export = commands.add_parser("export", help="convert weights for ComfyUI or kohya's tools, or merge them into the base")
    export.add_argument(
        "sources",
        metavar="RUN",
        type=Path,
        nargs="+",
        help="output_dir of a run, a folder weights/step-000500, or a file of weights; several adapters are added up",
    )
    export.add_argument(
        "--to",
        choices=FORMATS,
        required=True,
        help="the program that will read it; fused: the base with the adapter merged in",
    )
    export.add_argument("--step", type=int, help="step of the run; by default the last")
    export.add_argument("--dtype", choices=DTYPES, help="data type; by default bf16, or for full weights the stored one")
    export.add_argument(
        "--output", type=Path, help="file, or folder; by default RUN/exports/FORMAT/RUN-step000500.safetensors"
    )
    export.add_argument(
        "--weights", type=float, nargs="+", metavar="W", help="what each of several adapters is multiplied by (default 1)"
    )
    export.add_argument(
        "--rank",
        type=_rank,
        metavar="N",
        help="make a LoRA of this rank: of full weights, of LoKr or DoRA, of a larger LoRA",
    )
    export.add_argument("--base", help="folder or Hub id of the base, if not that of the run")
    export.add_argument("--family", help="family of the model, if the weights do not name it")
    export.add_argument(
        "--leave-out", action="store_true", help="leave out what the format cannot carry, instead of refusing"
    )
    export.set_defaults(run=run_export)


def _rank(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)  # argparse names the option and the value
    return int(text)


def run_export(options: argparse.Namespace, _: list[str]) -> None:
    """``export``."""
    from finetrainers.cli.imports import quiet_libraries

    with uncollected():
        quiet_libraries()
        from finetrainers.export.export import Asked, export
        from finetrainers.training.signals import StopSignals

    given = {name: getattr(options, name) for name in Asked.__slots__ if name != "factors"}
    with StopSignals(kept="files that are written are whole", at_once="exporting").installed():
        result = export(Asked(**given, factors=options.weights))
    for note in result.notes:
        print(note, file=sys.stderr)
    for file in result.files:
        print(file)
