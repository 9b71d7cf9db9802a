"""The shapes that data takes on its way to a step: Encoded -> Batch.

Shape letters: B batch, C latent channels, F latent frames (1 for an image), H and W latent height and width,
T prompt tokens, D width of a text encoder. An image is a video of one frame everywhere in this package.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

Text = Mapping[str, Tensor]
"""What the text encoders make of captions, under the names that the family's adapter gives: [T, D], or [B, T, D]."""

Image = Mapping[str, Tensor]
"""What a task takes from the given frames (latents, masks, embeddings), under the adapter's names: [...], or [B, ...]."""


def sample_generator(seed: int, position: int, purpose: str) -> torch.Generator:
    """Make a CPU generator that depends on nothing but its arguments: the same draws on every device."""
    digest = hashlib.blake2b(f"{seed}/{position}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True, slots=True)
class Posterior:
    """What a VAE makes of pixels, normalized by its scale and shift."""

    mean: Tensor
    """[C, F, H, W]."""
    std: Tensor | None
    """[C, F, H, W] standard deviation; None where the model trains on the mode."""

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw latents [C, F, H, W], in float32."""
        mean = self.mean.float()
        if self.std is None:
            return mean
        return mean + self.std.float() * torch.randn(mean.shape, generator=generator)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sample after the frozen encoders; this is what the cache stores, a file for its text and one for each medium."""

    media: Mapping[str, Posterior]
    """By the name of the stream: the media themselves first; what follows them perhaps of fewer frames."""
    text: Text
    """Each [T, D] or [D]."""
    fps: float
    """Frames per second of the sampled clip; 0 for an image."""
    image: Image = field(default_factory=dict)
    """What the task takes from the frames that are given; empty for tasks that start from the prompt alone."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the denoiser is told besides the noisy latents."""

    text: Text
    """Each [B, T, D] or [B, D]."""
    fps: Tensor
    """[B] frames per second; 0 for images."""
    image: Image = field(default_factory=dict)
    """Each [B, ...]; empty for tasks that start from the prompt alone."""
    given: Tensor | None = None
    """[B, F] bool: latent frames that are given; None where nothing but the prompt is. Stays on the CPU: it decides how many
    tokens there are."""
    references: tuple[Tensor, ...] = ()
    """Latents of pictures of their own size that the denoiser is shown, each [B, C, 1, H', W']: none, or those of
    all samples."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "Prompt":
        """Apply a function to all tensors that go to the device."""
        text, image = ({name: change(tensor) for name, tensor in part.items()} for part in (self.text, self.image))
        references = tuple(change(reference) for reference in self.references)
        return Prompt(text, change(self.fps), image, self.given, references)

    def rows(self, rows: slice | Tensor) -> "Prompt":
        """Take some of the samples."""
        given = None if self.given is None else self.given[rows]
        return replace(self.map(lambda tensor: tensor[rows]), given=given)


@dataclass(frozen=True, slots=True)
class Medium:
    """One stream of a batch besides the media themselves, such as a control or a mask."""

    latents: Tensor
    """[B, C, F, H, W] float32; zero after the last frame of one that is shorter than its clip."""
    mask: Tensor
    """[B, F] float32: 1 where a frame of it is shown, else 0."""
    num_shown: Tensor | None = None
    """[B] int64: how many of its frames are shown; made of the mask. A length: it stays on the CPU, where media are made."""

    def __post_init__(self) -> None:
        if self.num_shown is None:
            object.__setattr__(self, "num_shown", self.mask.sum(1).long())

    @property
    def is_shown(self) -> Tensor:
        """[B] bool: samples that are shown a frame of it. Known on the CPU, as ``num_shown``."""
        assert self.num_shown is not None
        return self.num_shown > 0

    def map(self, change: Callable[[Tensor], Tensor]) -> "Medium":
        """Apply a function to all tensors."""
        assert self.num_shown is not None
        return Medium(change(self.latents), change(self.mask), change(self.num_shown))


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one bucket, with all their draws."""

    positions: Tensor
    """[B] int64: the n of "the n-th sample that training sees"; stays on the CPU, for it is only ever printed."""
    latents: Tensor
    """[B, C, F, H, W] float32."""
    noise: Tensor
    """[B, C, F, H, W] float32."""
    sigma: Tensor
    """[B, F] float32 noise level of each latent frame: 0 is clean, 1 is pure noise."""
    loss_mask: Tensor | None
    """[B, F] float32: 1 where a latent frame counts in the loss, 0 where it is given; None where all count."""
    prompt: Prompt
    media: Mapping[str, Medium] = field(default_factory=dict)
    """What each sample has besides the media themselves, by the name of the stream; empty for prompt-only training."""
    level: Tensor | None = None
    """[B] float32 noise level of each sample, which is that of its noisiest frame; made of ``sigma`` on the CPU, where it
    stays: of several experts it decides which is asked."""
    weight: Tensor | None = None
    """[B] float32: what the loss of each sample counts in training; None where all count 1."""

    def __post_init__(self) -> None:
        if self.level is None or self.sigma.device.type == "cpu":
            object.__setattr__(self, "level", self.sigma.amax(1).cpu())

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device; the original is left as it was.

        Lengths stay on the CPU: shapes follow from them, and no step waits until a device tells them.
        """
        return self._map(lambda tensor: tensor if is_length(tensor) else tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Copy to page-locked memory, from which copies to a GPU do not block; torch's loader calls it."""
        return self._map(lambda tensor: tensor.pin_memory())

    def split(self, size: int) -> "list[Batch]":
        """Cut into micro-batches of ``size`` samples, in order; the last may be smaller."""
        if size >= len(self.positions):
            return [self]
        return [self.rows(slice(start, start + size)) for start in range(0, len(self.positions), size)]

    def rows(self, rows: slice) -> "Batch":
        """Take some of the samples."""
        taken = self._map(lambda tensor: tensor[rows])
        assert self.level is not None
        return replace(taken, positions=self.positions[rows], prompt=self.prompt.rows(rows), level=self.level[rows])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(
            positions=self.positions,
            latents=change(self.latents),
            noise=change(self.noise),
            sigma=change(self.sigma),
            loss_mask=None if self.loss_mask is None else change(self.loss_mask),
            prompt=self.prompt.map(change),
            media={name: medium.map(change) for name, medium in self.media.items()},
            level=self.level,
            weight=None if self.weight is None else change(self.weight),
        )


def is_length(tensor: Tensor) -> bool:
    """Whether a tensor holds one whole number for each sample, such as the tokens of its prompt."""
    return tensor.ndim == 1 and tensor.dtype == torch.int64


def stack_text(texts: Sequence[Text]) -> Text:
    """Stack the encoded captions of several samples: each [T, D] becomes [B, T, D], shorter ones padded with zeros."""
    return {name: stack_padded([text[name] for text in texts]) for name in texts[0]}


def stack_padded(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors that may differ in their first dimension; the shorter ones end in zeros."""
    if all(tensor.shape == tensors[0].shape for tensor in tensors):
        return torch.stack(list(tensors))
    stacked = tensors[0].new_zeros(len(tensors), max(map(len, tensors)), *tensors[0].shape[1:])
    for row, tensor in zip(stacked, tensors, strict=True):
        row[: len(tensor)] = tensor
    return stacked


def cast_floats(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a floating-point tensor of any shape; masks stay what they are."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
