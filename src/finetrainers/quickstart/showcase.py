"""What the quick starts of pictures (``image.py``) and of clips (``video/showcase.py``) do not have in common.

Everything else is one code path, which knows of neither. A picture or a clip is uint8 [*S, H, W, C]; S is empty for
pictures, and the frames of clips.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from finetrainers.quickstart.drawing import Pixels
from finetrainers.quickstart.figures import Counted
from finetrainers.quickstart.measure import Measurement
from finetrainers.quickstart.scenes import Split

Stated = TypeVar("Stated", bound=Counted)
"""All that a caption states."""
Rendered_co = TypeVar("Rendered_co", covariant=True)


class Render(Protocol[Rendered_co]):
    """Draw number ``index`` of a split, and say what it shows: a function of the arguments alone."""

    def __call__(self, index: int, seed: int, *, split: Split = "train") -> tuple[Pixels, Rendered_co]:
        """Draw one."""
        ...


class Draw(Protocol):
    """Generate from captions with a diffusers pipeline, [N, *S, H, W, C]; number n's noise depends on (seed, n) alone."""

    def __call__(self, pipeline: Any, captions: Sequence[str], *, seed: int, guidance: float) -> Pixels:
        """Draw all."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """How things are called in what is printed and written."""

    drawn: str
    """What is generated, in the plural."""
    known: str
    """What of it the base knows."""
    concept: str
    """What of it the LoRA learns."""
    sets: Mapping[str, str]
    """What the prompts of each set are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTune:
    """What config.yaml says that is not the same for both."""

    num_frames: int
    rank: int
    """And alpha."""
    lr: str
    """As YAML takes it."""
    batch_size: int
    lines: str
    """What follows rank and alpha: the rest of ``tuning``, and further sections."""
    prompt: Mapping[str, Any]
    """Keys of each validation prompt beside its text and seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Showcase(Generic[Stated]):
    """What is rendered, generated, measured and said."""

    words: Words
    fine_tune: FineTune
    base_seed: int
    """Seed of what the base was trained on."""
    render_known: Render[Stated]
    render_concept: Render[Stated]
    caption_of: Callable[[Stated], str]
    write: Callable[[Path, Iterable[tuple[Pixels, Stated]]], None]
    """Writes a data set into a folder."""
    pipeline: Any
    """Class of diffusers; diffusers has no types."""
    draw: Draw
    steps: int
    """Denoising steps."""
    guidance: float
    measure: Callable[[Pixels, Stated], Measurement]
    groups: Sequence[str]
    group_of: Callable[[Stated], str]
    """comparison.png shows as many prompts of each group."""
    cell: Callable[[Pixels], Pixels]
    """Makes the picture [H', W', C] that comparison.png shows."""
    save: Callable[[Path, Pixels], object] | None
    """Writes what comparison.png shows into a file beside it; None where comparison.png shows all of it."""
    loading: str
    """Lines of Python that generate ``{prompt}`` with the LoRA ``{weights}`` on ``{base}``."""
    prompt: str
    """What these lines generate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What can be chosen about the quick start; ``IMAGE`` and ``VIDEO`` have the defaults."""

    showcase: Showcase[Any]  # of whatever truths: its functions fit each other
    """Pictures or clips."""
    base: Path
    """The shipped pipeline, in diffusers' layout."""
    output: Path
    """Folder of everything that is made."""
    device: str = "auto"
    """As ``train.device``."""
    steps: int
    """Optimizer steps of the LoRA; 0 trains nothing."""
    seed: int = 0
    """Of what is rendered, of the training and of the noise that is drawn from."""
    num_train: int
    """Pictures or clips to learn from."""
    num_rehearsal: int
    """Those of what the base can generate already, so that it is not forgotten (prior preservation, arXiv:2208.12242,
    section 3.2)."""
    num_held_out: int
    """Those that the held-out loss is measured on."""
    num_prompts: int
    """Prompts of each set that is generated and measured."""

    @property
    def config_file(self) -> Path:
        """The run's configuration."""
        return self.output / "config.yaml"

    @property
    def run(self) -> Path:
        """The run's ``output_dir``."""
        return self.output / "run"
