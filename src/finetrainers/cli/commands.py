"""The commands but those of the cache. Imports neither torch nor diffusers until a command needs them."""

import argparse
import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from finetrainers.cli.bench import add_bench
from finetrainers.cli.cache import add_cache
from finetrainers.cli.check import add_check
from finetrainers.cli.data import add_data
from finetrainers.cli.diff import add_diff
from finetrainers.cli.examples import add_examples
from finetrainers.cli.export import add_export
from finetrainers.cli.following import tell_after_encoding, tell_after_training
from finetrainers.cli.imports import quiet_libraries, uncollected
from finetrainers.cli.init import add_init
from finetrainers.cli.launch import add_launch
from finetrainers.cli.migrate import add_migrate
from finetrainers.cli.options import describe
from finetrainers.cli.plan import add_plan
from finetrainers.cli.rehearse import add_rehearse
from finetrainers.cli.report import add_report
from finetrainers.cli.reproduce import add_reproduce
from finetrainers.cli.status import DONE, USER_ERROR
from finetrainers.cli.ui import add_ui
from finetrainers.cli.unknown import CommandParser
from finetrainers.distributed.ending import ended_for_good
from finetrainers.distributed.launch import read_launch
from finetrainers.errors import ConfigError

CLOCK_SECONDS = 0.1
"""By how much the clock of a file may be behind that of the process."""
GENERATING = "generate samples"
"""Stage of ``sample``, as that of a validation is called."""
DESCRIPTION = "Fine-tune diffusion transformers for images and video."
EPILOG = """exit status: 0 done; 1 internal error; 2 wrong configuration or data; 3 stopped by Ctrl-C, SIGTERM,
SIGUSR1 or SIGHUP after saving (run the same command again to resume); 130 stopped at once by a second Ctrl-C"""


def build_parser() -> CommandParser:
    """All commands with their options."""
    from finetrainers import __version__
    from finetrainers.quickstart.command import add_quickstart

    parser = CommandParser("finetrainers", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"finetrainers {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser)
    parser.commands = commands.choices
    for name, sentence in (
        ("train", "train, or resume the run in output_dir"),
        ("encode", "encode images, videos and captions into the cache, for training to read"),
    ):
        command = commands.add_parser(name, help=sentence, add_help=False, allow_abbrev=False)
        command.set_defaults(run=run_config_command)
    add_init(commands)
    add_launch(commands)
    add_check(commands)
    add_bench(commands)
    add_plan(commands)
    add_rehearse(commands)
    _add_sample(commands)
    add_export(commands)
    add_quickstart(commands).set_defaults(run=run_quickstart)
    models = commands.add_parser("models", help="list families, tasks and tuning kinds")
    models.add_argument("--json", action="store_true", help="print them as JSON")
    models.set_defaults(run=run_models)
    tiny = models.add_subparsers(dest="models_command", metavar="tiny").add_parser(
        "tiny", help="write a tiny pipeline of the real classes with random weights"
    )
    tiny.add_argument("family", metavar="FAMILY", help="family of the model, as finetrainers models lists it")
    tiny.add_argument("directory", metavar="DIR", type=Path, help="new folder for it")
    tiny.add_argument("--variant", help="variant of the family; by default the first")
    tiny.set_defaults(run=run_tiny)
    schema = commands.add_parser("schema", help="print the JSON schema of the configuration")
    schema.set_defaults(run=run_schema)
    add_cache(commands)
    add_data(commands)
    add_migrate(commands)
    add_examples(commands)
    add_ui(commands)
    add_report(commands)
    add_diff(commands)
    add_reproduce(commands)
    describe(commands)
    return parser


FILES = {
    "image": "image to start from (image-to-video)",
    "last-image": "image to end with (first-last-frame-to-video)",
    "control": "image or video from which the control signal is made (runs with a conditioning)",
}


def _add_sample(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    sample = commands.add_parser("sample", help="generate images or videos with the weights of a run")
    sample.add_argument("run_directory", metavar="RUN", type=Path, help="output_dir of the run")
    sample.add_argument("--prompt", required=True, action="append", help="what to generate; may be given several times")
    sample.add_argument("--step", type=int, help="step whose weights are used; by default the last")
    sample.add_argument("--base", action="store_true", help="generate without the trained weights, for comparison")
    sample.add_argument("--output", type=Path, help="folder for the files; by default RUN/samples")
    for name, sentence in FILES.items():
        sample.add_argument(f"--{name}", type=Path, help=sentence)
    sample.add_argument(
        "--reference",
        type=Path,
        action="append",
        help="reference image at its own size, such as one to edit; may be given several times (runs with references)",
    )
    sample.add_argument("--negative-prompt", help="what to avoid")
    for name, sentence in (("height", "pixels"), ("width", "pixels"), ("num-frames", "frames of a video")):
        sample.add_argument(f"--{name}", type=int, help=f"{sentence}; by default those of the run's first bucket")
    sample.add_argument("--num-inference-steps", type=int, help="denoising steps (default 30)")
    sample.add_argument(
        "--guidance-scale", type=float, help="how strongly to follow the prompt; by default the pipeline's own"
    )
    sample.add_argument("--fps", type=float, help="frames per second of a video")
    sample.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    sample.add_argument("--device", default="auto", help="cpu, cuda, ...; auto is cuda if there is one")
    sample.set_defaults(run=run_sample)


def run_config_command(options: argparse.Namespace, words: list[str]) -> int:
    """``train`` and ``encode``."""
    wants_help = "-h" in words or "--help" in words
    if wants_help or not words:
        from finetrainers.cli.help import config_help

        print(config_help(options.command))
        return DONE if wants_help else USER_ERROR
    from finetrainers.config import find_file, load_config

    file, overrides = find_file(words)
    if file is None:
        raise ConfigError(f"{options.command}: no configuration file is among {' '.join(words)!r}; give CONFIG as well")
    status = ended_for_good(os.environ)
    if status is not None:  # torchrun starts all anew, whatever it was that ended them
        return status
    config = load_config(file, overrides)
    with uncollected():
        quiet_libraries()
        from finetrainers.training.run import encode, train

    is_alone, is_first = read_launch(os.environ).size == 1, read_launch(os.environ).rank == 0
    if options.command == "encode":
        encode(config)
        if is_alone:
            tell_after_encoding(words)
        return DONE
    result = train(config)
    if is_first:
        tell_after_training(config, words if is_alone else None, result)
    return DONE


def run_sample(options: argparse.Namespace, _: list[str]) -> None:
    """``sample``."""
    with uncollected():
        quiet_libraries()
        from finetrainers.sampling.sample import sample_run
        from finetrainers.training.console.bar import Stages, is_terminal
        from finetrainers.training.signals import StopSignals

    others = ("num_inference_steps", "guidance_scale", "negative_prompt", "fps", "seed", "reference", *FILES)
    names = [name.replace("-", "_") for name in ("height", "width", "num_frames", *others)]
    settings = {name: getattr(options, name) for name in names}
    began = time.time()
    signals = StopSignals(kept="what has been generated is kept", at_once="generating")
    with closing(Stages()) as stages, signals.installed():

        def progress(done: int, total: int) -> None:
            if is_terminal():
                stages.show(GENERATING, done, total, is_kept=False)

        files = sample_run(
            options.run_directory,
            [{"prompt": prompt, **settings} for prompt in options.prompt],
            step=options.step,
            use_base=options.base,
            output=options.output,
            device=options.device,
            progress=progress,
        )
    for file in files:
        if file.stat().st_mtime < began - CLOCK_SECONDS:
            print(f"{file.name} is there already, of the same request: not generated again", file=sys.stderr)
        print(file, flush=True)


def run_quickstart(options: argparse.Namespace, _: list[str]) -> int:
    """``quickstart``."""
    from dataclasses import replace

    from finetrainers.cli.entry import main

    with uncollected():
        quiet_libraries()
        from finetrainers.quickstart.image import IMAGE
        from finetrainers.quickstart.run import quickstart
        from finetrainers.quickstart.video.showcase import VIDEO
        from finetrainers.training.signals import StopSignals

    defaults = VIDEO if options.video else IMAGE
    chosen = {field: value for field, value in vars(options).items() if field in defaults.__slots__}
    with StopSignals(kept="what is done is kept", at_once="making the quick start").installed():
        return quickstart(replace(defaults, **chosen), command=main, say=print)


def run_models(options: argparse.Namespace, _: list[str]) -> None:
    """``models``."""
    from finetrainers.config.reference import kinds
    from finetrainers.models import adapters

    families: list[dict[str, Any]] = [
        {
            "family": name,
            "description": (adapter.__doc__ or "").strip().splitlines()[0],
            "tasks": list(adapter.pipelines),
            "pipelines": dict(adapter.pipelines),
            "tuning": kinds("tuning"),
            "conditioning": kinds("conditioning"),
            "lora_targets": list(adapter.lora_targets),
        }
        for name, adapter in adapters().items()
    ]
    from finetrainers.testing.tiny import FACTORIES

    variants = {name: list(FACTORIES.get(name, ())) for name in adapters()}
    if options.json:
        print(json.dumps([{**family, "variants": variants[family["family"]]} for family in families], indent=1))
        return
    for family in families:
        print(f"{family['family']}: {family['description']}")
        print(f"  tasks: {', '.join(family['tasks'])}; tuning: {', '.join(family['tuning'])}")
        if variants[family["family"]]:
            print(f"  variants of models tiny: {', '.join(variants[family['family']])}")


def run_tiny(options: argparse.Namespace, _: list[str]) -> None:
    """``models tiny``."""
    with uncollected():
        quiet_libraries()
        from finetrainers.testing import make_tiny
        from finetrainers.testing.tiny import FACTORIES

    if options.family in FACTORIES:
        said = f"making a tiny {options.family} in {options.directory}, which can take half a minute"
        print(said, file=sys.stderr, flush=True)
    print(make_tiny(options.family, options.directory, variant=options.variant))


def run_schema(_options: argparse.Namespace, _: list[str]) -> None:
    """``schema``."""
    from finetrainers.config import Config

    print(json.dumps(Config.model_json_schema(), indent=1))
