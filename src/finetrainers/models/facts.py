"""What an adapter states of its family, in five tables: latents, text, training, recipe and pictures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from finetrainers.errors import ModelError
from finetrainers.models.noise import NoiseLevels

Statistics = Literal["shift_scale", "buffers", "config"]
Prediction = Literal["flow", "v"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentFacts:
    """How the VAE makes latents, and how they are normalized."""

    statistics: Statistics = "shift_scale"
    """Where the VAE keeps what normalizes its latents: ``shift_factor``, if any, and ``scaling_factor`` in its config, the
    buffers ``latents_mean`` and ``latents_std``, with ``scaling_factor``, or these two names in its config."""
    is_image_vae: bool = False
    """Whether the VAE takes [B, 3, H, W] and knows no frames."""
    samples_posterior: bool = True
    """Whether the model was trained on samples of the VAE's posterior; else on its mode."""

    def __post_init__(self) -> None:
        _check_one_of("latents.statistics", self.statistics, get_args(Statistics))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """How prompts are encoded."""

    components: tuple[str, ...] = ("tokenizer", "text_encoder")
    """Components that ``encode_prompt`` needs."""
    main_tokenizer: str = "tokenizer"
    """Tokenizer whose tokens the denoiser attends to: captions beyond T of them are cut."""
    max_length: int = 512
    """T, prompt tokens, where the config names no other: the default of the family's pipeline."""
    is_fixed_length: bool = False
    """Whether the denoiser takes prompts of ``max_length`` tokens and of no other number."""
    largest_length: int | None = None
    """Most prompt tokens that the family's pipeline takes; None where it takes any number."""
    has_negative_prompt: bool = True
    """Whether the pipeline is guided away from a negative prompt, which is empty by default."""
    mask: str | None = None
    """Name of the mask [B, T] in what ``encode_prompt`` returns, if ``denoise`` does without the tokens that it hides and,
    where it hides none, without the mask: in training, prompts are then cut to the longest of their micro-batch."""
    padded: tuple[str, ...] = ("prompt_embeds",)
    """Names of what has as many tokens as the mask, [B, T, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFacts:
    """What the model's authors trained it to do."""

    prediction: Prediction = "flow"
    """What the denoiser answers: the velocity of rectified flow, or the v of a diffusion with the scheduler's alphas, whose
    time step is ``floor(1000 * sigma)``."""
    noise_levels: NoiseLevels
    """How its authors drew noise levels, before the shift."""
    shift: float | Literal["resolution", "scheduler"] = 1.0
    """How its authors shifted them: by a factor, by ``resolution_shift``, or as the model's scheduler does (either)."""
    first_frame_probability: float | None = None
    """Default probability of a given first frame; None where the model has one noise level for all frames."""
    given_frame_max_sigma: float = 0.0
    """Largest noise level of a frame that is given in its place."""
    native_fps: float | None = None
    """Frames per second of the clips that the model was trained on, to which faster ones are brought; None where the
    denoiser is told each clip's rate, or generates images."""

    def __post_init__(self) -> None:
        _check_one_of("training.prediction", self.prediction, get_args(Prediction))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeFacts:
    """What a run takes where its configuration says ``auto``: figures that somebody has published, named beside each."""

    lr: float = 5e-5
    """Learning rate of an adapter, for AdamW."""
    full_lr: float = 5e-5
    """Learning rate of the weights themselves, for AdamW."""
    rank: int = 64
    """Rank of LoRA."""
    scale: float = 1.0
    """``alpha / rank`` of LoRA."""
    size: tuple[int, int, int] | None = None
    """(frames, height, width) that the model was made for, by which buckets are chosen; None: they have to be given."""
    has_other_aspects: bool = True
    """Whether it was made for other proportions of about the same area as well."""

    def __post_init__(self) -> None:
        for name in ("lr", "full_lr", "rank", "scale"):
            if not getattr(self, name) > 0:
                raise ModelError(f"recipe.{name}: {getattr(self, name)} is not above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """What the model is shown besides the prompt: given frames, and the latents of a control."""

    image_tasks: tuple[str, ...] = ()
    """Tasks that take more from the given frames than the latents that stand in their place: ``encode_image`` makes it."""
    image_components: tuple[str, ...] = ()
    """Components besides the VAE that ``encode_image`` needs, and the pipelines of those tasks; a model may lack them."""
    control_pipelines: Mapping[str, str] = field(default_factory=dict)
    """Pipeline class of each task that diffusers has for a denoiser whose input is widened for the latents of a control."""
    draws_control: bool = False
    """Whether these draw a control from the VAE's posterior, with the generator of the noise; else its mode is taken."""
    reference_pipelines: Mapping[str, str] = field(default_factory=dict)
    """Pipeline class that generates with references, of each task that takes pictures of their own size as further tokens:
    ``append_references`` puts them there."""


TABLES = {
    "latents": LatentFacts,
    "text": TextFacts,
    "training": TrainingFacts,
    "recipe": RecipeFacts,
    "pictures": PictureFacts,
}

MOVED = {
    "vae_statistics": "latents.statistics",
    "has_image_vae": "latents.is_image_vae",
    "samples_posterior": "latents.samples_posterior",
    "text_components": "text.components",
    "main_tokenizer": "text.main_tokenizer",
    "max_sequence_length": "text.max_length",
    "has_fixed_sequence_length": "text.is_fixed_length",
    "largest_sequence_length": "text.largest_length",
    "has_negative_prompt": "text.has_negative_prompt",
    "prediction": "training.prediction",
    "noise_levels": "training.noise_levels",
    "shift": "training.shift",
    "first_frame_probability": "training.first_frame_probability",
    "given_frame_max_sigma": "training.given_frame_max_sigma",
    "native_fps": "training.native_fps",
    "image_tasks": "pictures.image_tasks",
    "image_components": "pictures.image_components",
    "control_pipelines": "pictures.control_pipelines",
    "draws_control": "pictures.draws_control",
}
"""Where facts are that were attributes of the adapter itself: nothing reads these any more."""


def refuse_moved(adapter: str, names: Iterable[str]) -> None:
    """Refuse attributes of an adapter that nothing would read.

    Raises:
        ModelError: If there are any; names the new place of each.
    """
    moved = [name for name in names if name in MOVED]
    if not moved:
        return
    table, _, key = MOVED[moved[0]].partition(".")
    places = ", ".join(f"{name} is now {MOVED[name]}" for name in moved)
    raise ModelError(f"{adapter}: {places}; set it in its table, as in {table} = {TABLES[table].__name__}({key}=...)")


def _check_one_of(place: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ModelError(f"{place}: {value!r} is not known; set one of {', '.join(known)}")
