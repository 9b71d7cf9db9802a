"""What a user would have on the disk before the first command: captioned data, a configuration, prompts."""

import difflib
import hashlib
import json
from contextlib import suppress
from pathlib import Path

import yaml

from finetrainers.config import parse_config
from finetrainers.errors import ConfigError
from finetrainers.files.whole import hash_file, write_whole
from finetrainers.quickstart.drawing import SIZE
from finetrainers.quickstart.language import MAX_TOKENS
from finetrainers.quickstart.showcase import Options

NUM_VALIDATION_PROMPTS = 4

CONFIG = """\
# The quick start, as any user would write it. Change it, take another output_dir, and run it again.
# The base: {digest}
output_dir: {run}
seed: {seed}
model: {{path: {base}, dtype: float32, max_sequence_length: {max_tokens}}}
data:
  - path: {train}
    buckets: {buckets}
    caption_dropout: 0.1                  # as the base was trained, so that guidance goes on working
    repeats: {repeats}                          # as many {concept} as {known} in an epoch
  - path: {rehearsal}
    buckets: {buckets}
    caption_dropout: 0.1
tuning:
  kind: lora
  rank: {rank}
  alpha: {rank}
{lines}optimizer: {{lr: {lr}}}
schedule: {{name: cosine, warmup_steps: {warmup_steps}}}
train: {{steps: {steps}, batch_size: {batch_size}, micro_batch_size: {batch_size}, device: {device}}}
loader: {{workers: 1}}
cache: {{path: {cache}, batch_size: 32}}
validation:
  prompts: {prompts}
  data: [{{path: {held_out}, buckets: {buckets}}}]
track: {{every: 10}}
"""


def write_project(options: Options) -> None:
    """Write the data set, the configuration and the prompts, as far as they are not there.

    Raises:
        ConfigError: If the options are impossible, or those of another run in the same folder, or the base is missing.
    """
    _check_base(options.base)
    text = config_text(options)
    parse_config(yaml.safe_load(text), origin="the quick start's configuration")
    _check_folder(options, text)
    prompts_file = options.output / "validation.json"
    if prompts_file.exists():  # written last
        return
    options.output.mkdir(parents=True, exist_ok=True)
    write_whole(options.config_file, text)
    seed, data, showcase = options.seed, options.output / "data", options.showcase
    known, concept = showcase.render_known, showcase.render_concept
    held_out = [concept(n, seed, split="held_out") for n in range(options.num_held_out)]
    showcase.write(data / "train", (concept(n, seed) for n in range(options.num_train)))
    showcase.write(data / "rehearsal", (known(n, seed) for n in range(options.num_rehearsal)))
    showcase.write(data / "held_out", held_out)
    prompts = [
        {"prompt": showcase.caption_of(truth), **showcase.fine_tune.prompt, "seed": n}
        for n, (_, truth) in enumerate(held_out[:NUM_VALIDATION_PROMPTS])
    ]
    write_whole(prompts_file, json.dumps(prompts, indent=1) + "\n")


def config_text(options: Options) -> str:
    """Write out the configuration, with absolute paths, so that it runs from any folder."""
    output = options.output.expanduser().absolute()
    showcase, fine_tune = options.showcase, options.showcase.fine_tune
    paths = {
        "base": options.base,
        "run": output / "run",
        "train": output / "data" / "train",
        "rehearsal": output / "data" / "rehearsal",
        "held_out": output / "data" / "held_out",
        "cache": output / "cache",
        "prompts": output / "validation.json",
    }
    return CONFIG.format(
        **{name: _quoted(path) for name, path in paths.items()},
        digest=digest_of(options.base),
        seed=options.seed,
        steps=options.steps,
        repeats=options.num_rehearsal / options.num_train,
        warmup_steps=options.steps // 20,
        device=_quoted(options.device),
        concept=showcase.words.concept,
        known=showcase.words.known,
        buckets=[[fine_tune.num_frames, SIZE, SIZE]],
        rank=fine_tune.rank,
        lines=fine_tune.lines,
        lr=fine_tune.lr,
        batch_size=fine_tune.batch_size,
        max_tokens=MAX_TOKENS,
    )


def digest_of(directory: Path) -> str:
    """Name the contents of a folder."""
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    facts = [f"{file.relative_to(directory)} {hash_file(file).hex()}" for file in files]
    return hashlib.blake2b("\n".join(facts).encode(), digest_size=8).hexdigest()


def _quoted(text: Path | str) -> str:
    """Quote a string as YAML takes it, whatever is in it."""
    return json.dumps(str(text), ensure_ascii=False)


def _check_base(base: Path) -> None:
    """Refuse to begin without a base."""
    if not (base / "model_index.json").is_file():
        raise ConfigError(
            f"quickstart: there is no base, since {base} holds no model_index.json; reinstall finetrainers, which has it"
        )


def _check_folder(options: Options, text: str) -> None:
    """Refuse a folder of something else, of other options, or with a configuration that the user has changed."""
    old = ""
    if options.output.is_dir() and any(options.output.iterdir()):
        with suppress(FileNotFoundError, UnicodeDecodeError):
            old = options.config_file.read_text(encoding="utf-8")
        if not old.startswith(CONFIG.partition("\n")[0]):
            raise ConfigError(f"--output: {options.output} is there and holds no quick start; remove it, or take another")
    if not old:
        return
    lines = [line for line in difflib.ndiff(old.splitlines(), text.splitlines()) if line[:2] in ("- ", "+ ")]
    if lines:
        raise ConfigError(
            f"--output: {options.config_file} is not what these options make (- what is there, + what they make):\n  "
            + "\n  ".join(lines)
            + "\nGive the options that it was made with, or another --output"
        )
