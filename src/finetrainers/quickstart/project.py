"""What a user would have on the disk before the first command: a folder of captioned pictures, a configuration, prompts."""

import difflib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image

from finetrainers.config import parse_config
from finetrainers.errors import ConfigError
from finetrainers.files import hash_file, write_whole
from finetrainers.quickstart.concept import render_banner
from finetrainers.quickstart.drawing import SIZE, Pixels
from finetrainers.quickstart.evaluate import STEPS, Truth, caption_of
from finetrainers.quickstart.language import MAX_TOKENS
from finetrainers.quickstart.scenes import render_scene

BASE = Path(__file__).parent / "bases" / "image"
"""The shipped FluxPipeline."""

NUM_VALIDATION_PROMPTS = 4

CONFIG = """\
# The quick start, as any user would write it. Change it, take another output_dir, and run it again.
# The base: {digest}
output_dir: {run}
seed: {seed}
model: {{path: {base}, dtype: float32, max_sequence_length: {max_tokens}}}
data:
  - path: {train}
    buckets: [[1, {size}, {size}]]
    caption_dropout: 0.1                  # as the base was trained, so that guidance goes on working
    repeats: {repeats}                          # as many banners as scenes in an epoch
  - path: {rehearsal}
    buckets: [[1, {size}, {size}]]
    caption_dropout: 0.1
tuning:
  kind: lora
  rank: 16
  alpha: 16
  # All linear layers: attention alone, the default, learns less in so small a model.
  targets: [to_q, to_k, to_v, to_out.0, add_q_proj, add_k_proj, add_v_proj, to_add_out, proj_mlp, proj_out, net.0.proj,
    net.2, linear, x_embedder, context_embedder]
optimizer: {{lr: 1.0e-2}}
schedule: {{name: cosine, warmup_steps: {warmup_steps}}}
train: {{steps: {steps}, batch_size: 32, micro_batch_size: 32, device: {device}}}
loader: {{workers: 1}}
cache: {{path: {cache}, batch_size: 32}}
validation:
  prompts: {prompts}
  data: [{{path: {held_out}, buckets: [[1, {size}, {size}]]}}]
track: {{every: 10}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What can be chosen about the quick start."""

    output: Path = Path("quickstart-run")
    """Folder of everything that is made."""
    device: str = "auto"
    """As ``train.device``."""
    steps: int = 1000
    """Optimizer steps of the LoRA; 0 trains nothing."""
    seed: int = 0
    """Of the pictures, of the training and of the noise that is drawn from."""
    num_train: int = 960
    """Pictures to learn from."""
    num_rehearsal: int = 960
    """Pictures of what the base can draw already, so that it is not forgotten (prior preservation, arXiv:2208.12242,
    section 3.2)."""
    num_held_out: int = 64
    """Pictures that the held-out loss is measured on."""
    num_prompts: int = 128
    """Prompts of each set that is drawn and measured."""

    @property
    def config_file(self) -> Path:
        """The run's configuration."""
        return self.output / "config.yaml"

    @property
    def run(self) -> Path:
        """The run's ``output_dir``."""
        return self.output / "run"


def write_project(options: Options) -> None:
    """Write the data set, the configuration and the prompts, as far as they are not there.

    Raises:
        ConfigError: If the options are impossible, or those of another run in the same folder.
    """
    text = config_text(options)
    parse_config(yaml.safe_load(text), origin="the quick start's configuration")
    _check_folder(options, text)
    prompts_file = options.output / "validation.json"
    if prompts_file.exists():  # written last
        return
    options.output.mkdir(parents=True, exist_ok=True)
    write_whole(options.config_file, text)
    seed, data = options.seed, options.output / "data"
    held_out = [render_banner(n, seed, split="held_out") for n in range(options.num_held_out)]
    write_pictures(data / "train", (render_banner(n, seed) for n in range(options.num_train)))
    write_pictures(data / "rehearsal", (render_scene(n, seed) for n in range(options.num_rehearsal)))
    write_pictures(data / "held_out", held_out)
    prompts = [
        {"prompt": caption_of(banner), "num_inference_steps": STEPS, "seed": n}
        for n, (_, banner) in enumerate(held_out[:NUM_VALIDATION_PROMPTS])
    ]
    write_whole(prompts_file, json.dumps(prompts, indent=1) + "\n")


def write_pictures(directory: Path, rendered: Iterable[tuple[Pixels, Truth]]) -> None:
    """Write pictures as 0000.png and so on, each with its caption in a .txt of the same name."""
    directory.mkdir(parents=True, exist_ok=True)
    for n, (pixels, truth) in enumerate(rendered):
        Image.fromarray(pixels).save(directory / f"{n:04d}.png")
        (directory / f"{n:04d}.txt").write_text(caption_of(truth) + "\n", encoding="utf-8")


def config_text(options: Options) -> str:
    """Write out the configuration, with absolute paths, so that it runs from any folder."""
    output = options.output.expanduser().absolute()
    paths = {
        "base": BASE,
        "run": output / "run",
        "train": output / "data" / "train",
        "rehearsal": output / "data" / "rehearsal",
        "held_out": output / "data" / "held_out",
        "cache": output / "cache",
        "prompts": output / "validation.json",
    }
    return CONFIG.format(
        **{name: _quoted(path) for name, path in paths.items()},
        digest=digest_of(BASE),
        seed=options.seed,
        steps=options.steps,
        repeats=options.num_rehearsal / options.num_train,
        warmup_steps=options.steps // 20,
        device=_quoted(options.device),
        size=SIZE,
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


def _check_folder(options: Options, text: str) -> None:
    """Refuse a folder of something else, of other options, or with a configuration that the user has changed."""
    if not options.config_file.exists():
        if options.output.is_dir() and any(options.output.iterdir()):
            raise ConfigError(f"--output: {options.output} is there and holds no quick start; remove it, or take another")
        return
    old = options.config_file.read_text(encoding="utf-8").splitlines()
    lines = [line for line in difflib.ndiff(old, text.splitlines()) if line[:2] in ("- ", "+ ")]
    if lines:
        raise ConfigError(
            f"--output: {options.config_file} is not what these options make (- what is there, + what they make):\n  "
            + "\n  ".join(lines)
            + "\nGive the options that it was made with, or another --output"
        )
