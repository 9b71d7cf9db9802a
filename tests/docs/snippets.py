"""Snippets of the documentation: where they are, and what they read: tiny models in the place of those that they name."""

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from PIL import Image
from runs import Tree
from test_examples import RELEASES
from weights_made import make_run

from finetrainers.export.export import Asked, export
from finetrainers.files.steps import name_of_step
from finetrainers.testing.model_under_test import FULL, LORA
from finetrainers.tuning.exported import FILE, SECOND_FILE

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>.*?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
MODEL = re.compile(r'"([\w.-]+/([\w.-]+))"')
WEIGHTS = re.compile(r'"((?:/home/me/)?(runs?/[\w./-]*?)/(weights|exports/fused)/(?:([\w-]+)-)?step-?(\d+))')
SMALLER = {
    r'"cuda"': '"cpu"',
    r"torch\.bfloat16": "torch.float32",
    r"\bheight=\d+": "num_inference_steps=2, max_sequence_length=16, height=64",
    r"\bwidth=\d+": "width=64",
    r"frame_index=frame\b": "frame_index=frame // 24 * 8",
    r"num_frames=49": "num_frames=17",
    r"train\.steps=500": "train.steps=1",
    r"\bin_channels=128": "in_channels=32",
    r"\bout_channels=64": "out_channels=16",
    r"/home/me/": "",
}
"""What changes in a snippet: device, data type, size, length, and places outside the current folder."""


@dataclass(frozen=True)
class Snippet:
    """A block of code on a page."""

    page: Path
    number: int
    language: str
    text: str
    reason: str | None
    """Why it cannot be run, as a comment above it says; None where it is run."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}-{self.number}"

    @cached_property
    def releases(self) -> list[tuple[str, str]]:
        """Ids on the Hub of models that it names, with what follows the owner."""
        return [match for match in MODEL.findall(self.text) if match[1] in RELEASES]


def snippets(*languages: str) -> list[Snippet]:
    """All snippets in some languages, on all pages."""
    return [
        Snippet(page, number, match["language"], textwrap.dedent(match["text"]), match["reason"])
        for page in PAGES
        for number, match in enumerate(FENCE.finditer(page.read_text(encoding="utf-8")))
        if match["language"] in languages
    ]


def make_world(snippet: Snippet, tiny: Callable[[str], Path], folder: Path) -> None:
    """Put what a snippet reads into the folder that it runs in: models under their ids on the Hub, weights, pictures."""
    for name, release in snippet.releases:
        place = folder / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(tiny(release))
    for name in re.findall(r'"([\w-]+\.(?:png|jpg))"', snippet.text):
        Image.new("RGB", (64, 64), "red").save(folder / name)
    found = {match[1]: match for match in WEIGHTS.findall(snippet.text) and WEIGHTS.finditer(snippet.text)}
    for match in found.values():
        _make_weights(snippet, tiny(snippet.releases[0][1]), folder, match)


def _make_weights(snippet: Snippet, model: Path, folder: Path, match: re.Match[str]) -> None:
    """Weights of the kind that the snippet loads, where it looks for them."""
    run, step = folder / match[2], int(match[5])
    place = folder / match[1].removeprefix("/home/me/")
    if place.exists():
        return
    is_full = "AutoModel.from_pretrained" in snippet.text and "layers.safetensors" not in snippet.text
    is_fused = match[3] != "weights"
    sections: Tree = {"output_dir": str(run)}
    if "ControlPipeline" in snippet.text:
        sections["conditioning"] = {"kind": "channel_concat", "signal": "gray"}
    components = ("transformer", "transformer_2") if "load_into_transformer_2" in snippet.text else ("transformer",)
    make_run(model, folder, FULL if is_full and not is_fused else LORA, components=components, **sections)
    if is_fused:
        (made,) = export(Asked([run], "fused")).files
    else:
        (made,) = (run / "weights").iterdir()
        levels = ("-high_noise", "-low_noise") if len(components) > 1 else ("",)
        for file, level in zip((FILE, SECOND_FILE), levels, strict=False):
            if (made / file).is_file():
                (made / file).rename(made / f"{name_of_step(run.name, step)}{level}.safetensors")
    made.rename(place)


def shortened(text: str) -> str:
    """A snippet as it runs on a CPU in a moment."""
    for old, new in SMALLER.items():
        text = re.sub(old, new, text)
    return text


def not_installed(*, keeps: frozenset[str]) -> frozenset[str]:
    """Modules that are here, and that ``pip install finetrainers`` alone would not bring.

    Args:
        keeps: Distributions that stay, such as those that run the tests.
    """
    plain, todo = set(keeps), ["finetrainers", *keeps]
    while todo:
        try:
            wanted = [Requirement(line) for line in requires(todo.pop()) or ()]
        except PackageNotFoundError:
            continue
        names = {_plain(own.name) for own in wanted if own.marker is None or own.marker.evaluate({"extra": ""})}
        todo += names - plain
        plain |= names
    found = {module: {_plain(name) for name in names} for module, names in packages_distributions().items()}
    return frozenset(module for module, names in found.items() if not names & (plain | {"finetrainers"}))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
