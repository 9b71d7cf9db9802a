"""Train the autoencoder of the quick start's base: 64x64 RGB to 8x8 latents of 16 channels, 0.69 M parameters.

It sees training scenes and patterns of random bars, blocks and blobs; it never sees a picture of the concept.
A checkpoint is written every two minutes, and the same command goes on from it. Draws depend on (seed, step) alone;
the learning rate falls to zero by the end of each call, by the clock or by the steps, whichever is sooner.

    OMP_NUM_THREADS=1 nice -n 19 python scripts/train_quickstart_autoencoder.py --output /tmp/autoencoder --minutes 110

Pixels are float32 [B, C, H, W] in -1..1 inside this script; latents are [B, 16, 8, 8].
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from finetrainers.quickstart.concept import render_banner
from finetrainers.quickstart.drawing import COLOURS, SHAPES, SIZE, Pixels, composite, cover, random_generator
from finetrainers.quickstart.measure import measure
from finetrainers.quickstart.scenes import render_scene

WIDTHS = (16, 16, 32, 64)
LATENT_CHANNELS = 16
BATCH = 32
SCENES, PATTERNS = 48_000, 16_000
"""Pictures in memory, 12 KiB each."""

KL_WEIGHT, EDGE_WEIGHT = 5e-4, 0.5
WARMUP_STEPS, EMA_DECAY, CLIP_NORM = 200, 0.999, 1.0
DECAY_PART = 0.35
"""Part of the steps, at the end, over which the learning rate falls to zero."""

POOL_SEED, HELD_OUT_SEED = 11, 12
SILU_GAIN = 1.68
"""1 / the root of the mean of silu(x)^2 for a standard normal x."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    output: Path
    steps: int
    minutes: float
    lr: float
    seed: int


def parse_options() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint and of vae/")
    parser.add_argument("--steps", type=int, default=20_000, help="most steps to take in this call")
    parser.add_argument("--minutes", type=float, default=110.0, help="longest time to train in this call")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    return Options(**vars(parser.parse_args()))


def build_autoencoder() -> AutoencoderKL:
    """Make the model, with every residual block the identity, and variances kept through the rest."""
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(WIDTHS),
        up_block_types=("UpDecoderBlock2D",) * len(WIDTHS),
        block_out_channels=WIDTHS,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,
        sample_size=SIZE,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        is_after_silu = name.endswith((".conv1", ".conv2", "encoder.conv_out", "decoder.conv_out"))
        gain = 0.0 if name.endswith(".conv2") else SILU_GAIN if is_after_silu else 1.0
        nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5)
        nn.init.zeros_(module.bias)
    return model


def render_pattern(index: int, seed: int) -> Pixels:
    """Draw a picture with the edges and colours of a scene but without its order: cut blocks, then loose shapes."""
    generator = random_generator(seed, index, "pattern")

    def pick() -> str:
        return COLOURS[int(generator.integers(len(COLOURS)))]

    layers = []
    blocks = [(0.0, 0.0, float(SIZE), float(SIZE))]
    for _ in range(int(generator.integers(0, 6))):
        left, top, right, bottom = blocks.pop(int(generator.integers(len(blocks))))
        part = generator.uniform(0.2, 0.8)
        if generator.random() < 0.5:
            cut = left + part * (right - left)
            blocks += [(left, top, cut, bottom), (cut, top, right, bottom)]
        else:
            cut = top + part * (bottom - top)
            blocks += [(left, top, right, cut), (left, cut, right, bottom)]
    for left, top, right, bottom in blocks:
        layers.append((cover("block", ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)), pick()))
    for _ in range(int(generator.integers(0, 5))):
        shape = (*SHAPES, "block", "block", "block")[int(generator.integers(len(SHAPES) + 3))]
        x, y = generator.uniform(4, SIZE - 4, size=2)
        width, height = np.exp(generator.uniform(np.log(5), np.log(48), size=2))
        layers.append((cover(shape, (x, y, width, height)), pick()))
    return composite(pick(), layers)


def render_pool() -> Tensor:
    """Draw all pictures to train on, uint8 [N, C, H, W]."""
    pool = np.empty((SCENES + PATTERNS, SIZE, SIZE, 3), np.uint8)
    for n in range(SCENES):
        pool[n] = render_scene(n, POOL_SEED)[0]
    for n in range(PATTERNS):
        pool[SCENES + n] = render_pattern(n, POOL_SEED)
    return torch.from_numpy(pool).permute(0, 3, 1, 2)


def to_model(pixels: Tensor) -> Tensor:
    """Scale uint8 pixels to -1..1."""
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def draw_batch(pool: Tensor, generator: torch.Generator) -> Tensor:
    """Draw pictures and turn or mirror all of them in one of eight ways."""
    pixels = to_model(pool[torch.randint(len(pool), (BATCH,), generator=generator)])
    ways = torch.randint(2, (3,), generator=generator).bool().tolist()
    if ways[0]:
        pixels = pixels.transpose(2, 3)
    mirrored = [dim for dim, is_mirrored in zip((2, 3), ways[1:], strict=True) if is_mirrored]
    return pixels.flip(mirrored).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of pixels and of the differences between neighbours, which make up the edges."""
    loss = functional.mse_loss(output, target)
    for dim in (2, 3):
        loss = loss + EDGE_WEIGHT * functional.mse_loss(output.diff(dim=dim), target.diff(dim=dim))
    return loss


def learning_rate(peak: float, done_steps: int, left: float) -> float:
    """Warm up, stay, and fall to zero over the last DECAY_PART of a call; ``left`` is the part of it still to come."""
    return peak * max(0.0, min(1.0, (done_steps + 1) / WARMUP_STEPS, left / DECAY_PART))


class Training:
    """Everything that a checkpoint holds, and the step."""

    def __init__(self, options: Options) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.model = build_autoencoder().to(memory_format=torch.channels_last)
        self.average = build_autoencoder().to(memory_format=torch.channels_last).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
        self.done_steps = 0
        self.seconds = 0.0
        self.path = options.output / "checkpoint.pt"

    def step(self, pool: Tensor, left: float) -> Tensor:
        """Take one optimizer step and return the loss."""
        generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.done_steps)
        pixels = draw_batch(pool, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.options.lr, self.done_steps, left)
        posterior = self.model.encode(pixels).latent_dist
        output = self.model.decode(posterior.sample(generator=generator)).sample
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = reconstruction_loss(output, pixels) + KL_WEIGHT * kl
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done_steps += 1
        decay = min(EMA_DECAY, self.done_steps / (self.done_steps + 10))
        average, current = list(self.average.parameters()), list(self.model.parameters())
        torch._foreach_lerp_(average, current, 1 - decay)
        return loss.detach()

    def save(self) -> None:
        """Write the checkpoint, replacing the last one only when the new one is whole."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimizer")}
        partial = self.path.with_suffix(".partial")
        torch.save({**parts, "done_steps": self.done_steps, "seconds": self.seconds}, partial)
        partial.replace(self.path)

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self.path.exists():
            state = torch.load(self.path)
            for name in ("model", "average", "optimizer"):
                getattr(self, name).load_state_dict(state[name])
            self.done_steps, self.seconds = state["done_steps"], state["seconds"]


@torch.no_grad()
def reconstruct(model: AutoencoderKL, pictures: Pixels) -> Pixels:
    """Encode and decode uint8 pictures [N, H, W, C]."""
    outputs = []
    for batch in torch.from_numpy(pictures).permute(0, 3, 1, 2).split(64):
        decoded = model.decode(model.encode(to_model(batch)).latent_dist.mode()).sample
        outputs.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(outputs).permute(0, 2, 3, 1).contiguous().numpy()


def evaluate(model: AutoencoderKL, count: int) -> dict[str, float]:
    """Return PSNR and the percentage of reconstructions that measure right, on held-out scenes and on banners."""
    figures = {}
    for name, rendered in (
        ("scenes", [render_scene(n, HELD_OUT_SEED, split="held_out") for n in range(count)]),
        ("banners", [render_banner(n, HELD_OUT_SEED, split="held_out") for n in range(count)]),
    ):
        pictures = np.stack([pixels for pixels, _ in rendered])
        outputs = reconstruct(model, pictures)
        error = np.mean((outputs.astype(np.float64) - pictures) ** 2)
        rights = [measure(output, truth).is_right for output, (_, truth) in zip(outputs, rendered, strict=True)]
        figures[f"{name}_psnr"] = round(float(10 * np.log10(255**2 / error)), 2)
        figures[f"{name}_right_percent"] = round(100 * sum(rights) / count, 2)
    return figures


@torch.no_grad()
def normalize_latents(model: AutoencoderKL, pool: Tensor) -> dict[str, list[float]]:
    """Give every latent channel the same spread, and set shift and scale so that latents have mean 0 and deviation 1.

    The spread moves between the encoder's last convolution and the decoder's first one, which changes no output.
    """
    means = torch.cat([model.encode(to_model(b)).latent_dist.mode() for b in pool[: min(4096, SCENES)].split(64)])
    spread = means.std(dim=(0, 2, 3))
    out, into = model.encoder.conv_out, model.decoder.conv_in
    out.weight[:LATENT_CHANNELS] /= spread.view(-1, 1, 1, 1)
    out.bias[:LATENT_CHANNELS] /= spread
    out.bias[LATENT_CHANNELS:] -= 2 * spread.log()  # the other half of the channels is the logarithm of the variance
    into.weight.mul_(spread.view(1, -1, 1, 1))
    means = means / spread.view(1, -1, 1, 1)
    model.register_to_config(shift_factor=means.mean().item(), scaling_factor=1 / means.std().item())
    centres = (means.mean(dim=(0, 2, 3)) - means.mean()) / means.std()
    return {"channel_deviation_before": spread.tolist(), "channel_mean_after": centres.tolist()}


def train(training: Training, pool: Tensor, options: Options) -> None:
    """Take steps until they or the minutes are used up; log and save on the way."""
    started = logged = saved = time.monotonic()
    first_step = training.done_steps
    limit_s = max(60 * options.minutes, 1e-6)
    losses = []
    while True:
        before = time.monotonic()
        # Whichever runs out first: a shared machine may be too slow for the steps, and the rate must fall all the same.
        left = min(1 - (before - started) / limit_s, 1 - (training.done_steps - first_step) / options.steps)
        if left <= 0:
            break
        losses.append(training.step(pool, left))
        now = time.monotonic()
        training.seconds += now - before
        if now - logged > (60 if training.seconds < 600 else 300):
            figures = {
                "step": training.done_steps,
                "seconds": round(training.seconds),
                "loss": round(torch.stack(losses).mean().item(), 5),
            }
            print(json.dumps(figures | evaluate(training.average, 256)), flush=True)
            losses.clear()
            logged = time.monotonic()
        if now - saved > 120:
            training.save()
            saved = now
    training.save()


def main() -> None:
    """Train until the steps or the minutes are used up, then write the averaged weights."""
    options = parse_options()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    training = Training(options)
    training.restore()
    pool = render_pool()
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    print(json.dumps({"parameters": parameters, "first_step": training.done_steps}), flush=True)
    train(training, pool, options)
    model = training.average
    print(json.dumps(normalize_latents(model, pool)), flush=True)
    model.save_pretrained(options.output / "vae")
    figures = {"step": training.done_steps, "seconds": round(training.seconds)} | evaluate(model, 2000)
    (options.output / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
