"""Train the autoencoder of the quick start's video base: 9 frames of 64x64 RGB to 3x4x4 latents of 48 channels.

It sees training clips, and patterns: one shape of any kind, colours, proportions and opacity between any two boxes.
A checkpoint is written every two minutes, and the same command goes on from it. Draws depend on (seed, step) alone;
the learning rate falls to zero by the end of each call.

    OMP_NUM_THREADS=1 nice -n 10 python scripts/train_quickstart_video_autoencoder.py --output /tmp/video-vae --minutes 40

The second call trains the decoder alone, on latents that are not quite what they should be, as drawn ones are; what the
encoder makes stays what it is, and with it every base that was trained on it.

    OMP_NUM_THREADS=1 nice -n 10 python scripts/train_quickstart_video_autoencoder.py --output /tmp/video-decoder \
        --decoder-of /tmp/video-vae/vae --minutes 30 --lr 4e-4

Pixels are float32 [B, C, K, H, W] in -1..1 inside this script; latents are [B, 48, 3, 4, 4].
"""

import argparse
import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLLTXVideo
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.nn import functional

from finetrainers.quickstart.drawing import COLOURS, SHAPES, SIZE, Box, Pixels, random_generator
from finetrainers.quickstart.video.clips import NUM_FRAMES, Clip, draw_path, render_clip
from finetrainers.quickstart.video.effect import render_effect
from finetrainers.quickstart.video.measure import measure_clip

LATENT_CHANNELS = 48
MODEL = {
    "latent_channels": LATENT_CHANNELS,
    "block_out_channels": (32, 64, 128),
    "decoder_block_out_channels": (32, 64),
    "layers_per_block": (0, 1, 0),
    "decoder_layers_per_block": (1, 1, 1),
    "spatio_temporal_scaling": (True, True),
    "decoder_spatio_temporal_scaling": (True, True),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 2,
    "downsample_type": ("spatiotemporal",) * 2,
    "decoder_inject_noise": (False,) * 3,
    "upsample_residual": (False,) * 2,
    "upsample_factor": (1, 2),
    "patch_size": 4,
}
"""1.6 M parameters, the blocks of release 0.9.5: 16 times fewer columns and rows, 4 times fewer frames."""

BATCH = 16
CLIPS, PATTERNS = 12_000, 5_000
"""Clips in memory, 108 KiB each."""

KL_WEIGHT, EDGE_WEIGHT = 2e-4, 0.5
WARMUP_STEPS, EMA_DECAY, CLIP_NORM = 200, 0.999, 1.0
LARGEST_NOISE = 0.4
"""Part of a latent channel's deviation."""
DECAY_PART = 0.35
"""Part of a call, at its end, over which the learning rate falls to zero."""

POOL_SEED, HELD_OUT_SEED = 31, 32
UPSAMPLED_PARTS = 8
BESIDE, FIRST_LOG_VARIANCE = 0.1, -5.0
SILU_GAIN = 1.68
"""1 / the root of the mean of silu(x)^2 for a standard normal x."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    output: Path
    minutes: float
    lr: float
    seed: int
    decoder_of: Path | None


def parse_options() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint and of vae/")
    parser.add_argument("--minutes", type=float, default=40.0, help="longest time to train in this call")
    parser.add_argument("--lr", type=float, default=7e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder-of", type=Path, help="train the decoder of this autoencoder on")
    return Options(**vars(parser.parse_args()))


@torch.no_grad()
def build_autoencoder() -> AutoencoderKLLTXVideo:
    """Make the model: at first it is a local map that keeps variances, with every residual block the identity.

    All eight parts of an upsampled latent begin equal. With random ones every place of a clip would have another code,
    which one last convolution cannot read: the colour of the ground alone took hundreds of steps.
    """
    model = AutoencoderKLLTXVideo(**MODEL)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv3d):
            continue
        is_last = name in ("encoder.conv_out.conv", "decoder.conv_out.conv")
        if name.endswith((".conv1.conv", ".conv2.conv")):
            gain = SILU_GAIN if name.endswith(".conv1.conv") else 0.0
            nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5)
        else:
            parts = UPSAMPLED_PARTS if ".upsamplers." in name else 1
            newest = -1 if name.startswith("encoder.") else 1  # the encoder is causal
            weight = _local_weight(module.weight[::parts], newest) * (SILU_GAIN if is_last else 1.0)
            module.weight.copy_(weight.repeat_interleave(parts, dim=0))
        nn.init.zeros_(module.bias)
    log_variance = model.encoder.conv_out.conv
    log_variance.weight[-1] = 0.0
    log_variance.bias[-1] = FIRST_LOG_VARIANCE
    return model.to(memory_format=torch.channels_last_3d)


def load_autoencoder(directory: Path) -> AutoencoderKLLTXVideo:
    """Load one whose encoder is to stay as it is."""
    model = AutoencoderKLLTXVideo.from_pretrained(directory).to(memory_format=torch.channels_last_3d)
    model.encoder.requires_grad_(False)
    return model


def _local_weight(like: Tensor, time: int) -> Tensor:
    """Draw a convolution's weight [out, in, 3, 3, 3]: orthogonal at one place, and little beside it."""
    beside = torch.randn_like(like) * (BESIDE / like[0].numel() ** 0.5)
    outputs, inputs = like.shape[:2]
    beside[:, :, time, 1, 1] += nn.init.orthogonal_(torch.empty(outputs, inputs)) * max(1.0, outputs / inputs) ** 0.5
    return beside


def render_pattern(index: int, seed: int) -> Pixels:
    """Draw a shape on its way from any box to any other one; every second one from any opacity to any other."""
    generator = random_generator(seed, index, "pattern")

    def draw_box() -> Box:
        width, height = np.exp(generator.uniform(np.log(8), np.log(44), size=2))
        x, y = generator.uniform((width / 2, height / 2), (SIZE - width / 2, SIZE - height / 2))
        return float(x), float(y), float(width), float(height)

    shape = (*SHAPES, "block")[int(generator.integers(len(SHAPES) + 1))]
    colour, ground = generator.choice(len(COLOURS), size=2, replace=False).tolist()
    clip, boxes = Clip(shape, COLOURS[colour], COLOURS[ground], ""), (draw_box(), draw_box())
    opacity = tuple(generator.uniform(size=2).tolist()) if index % 2 else (1.0, 1.0)
    return draw_path(clip, *boxes, opacity=opacity)


def render_pool() -> Tensor:
    """Draw all clips to train on, uint8 [N, C, K, H, W] in memory as [N, K, H, W, C]."""
    pool = np.empty((CLIPS + PATTERNS, NUM_FRAMES, SIZE, SIZE, 3), np.uint8)
    for n in range(CLIPS):
        pool[n] = render_clip(n, POOL_SEED)[0]
    for n in range(PATTERNS):
        pool[CLIPS + n] = render_pattern(n, POOL_SEED)
    return torch.from_numpy(pool).permute(0, 4, 1, 2, 3)


def to_model(pixels: Tensor) -> Tensor:
    """Scale uint8 pixels to -1..1."""
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last_3d)


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of pixels and of the differences between neighbours in time and space."""
    loss = functional.mse_loss(output, target)
    for dim in (2, 3, 4):
        loss = loss + EDGE_WEIGHT * functional.mse_loss(output.diff(dim=dim), target.diff(dim=dim))
    return loss


def learning_rate(peak: float, done_steps: int, left: float) -> float:
    """Warm up, stay, and fall to zero over the last DECAY_PART of a call; ``left`` is the part of it still to come."""
    return peak * max(0.0, min(1.0, (done_steps + 1) / WARMUP_STEPS, left / DECAY_PART))


def noise_like(latents: Tensor, deviation: Tensor, generator: torch.Generator) -> Tensor:
    """Draw noise [B, C, K', H', W'] of up to LARGEST_NOISE of each channel's ``deviation`` [C], one part a clip."""
    parts = torch.rand(len(latents), 1, 1, 1, 1, generator=generator) * LARGEST_NOISE
    return torch.randn(latents.shape, generator=generator) * parts * deviation.view(-1, 1, 1, 1)


class Training:
    """Everything that a checkpoint holds, and the step."""

    def __init__(self, options: Options) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.model = build_autoencoder() if options.decoder_of is None else load_autoencoder(options.decoder_of)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.99), weight_decay=1e-4)
        self.done_steps = 0
        self.seconds = 0.0
        self.path = options.output / "checkpoint.pt"
        self._decoder_of = None if options.decoder_of is None else str(options.decoder_of)

    def step(self, pool: Tensor, left: float) -> Tensor:
        """Take one optimizer step and return the loss."""
        generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.done_steps)
        pixels = to_model(pool[torch.randint(len(pool), (BATCH,), generator=generator)])
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.options.lr, self.done_steps, left)
        with torch.autocast("cpu", torch.bfloat16):
            moments = self.model.encoder(pixels).float()
            posterior = DiagonalGaussianDistribution(moments)
            latents = posterior.sample(generator=generator)
            if self.options.decoder_of is not None:
                latents += noise_like(latents, self.model.latents_std, generator)
            output = self.model.decode(latents).sample.float()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        loss = reconstruction_loss(output, pixels) + KL_WEIGHT * kl
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done_steps += 1
        decay = min(EMA_DECAY, self.done_steps / (self.done_steps + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        return loss.detach()

    def save(self) -> None:
        """Write the checkpoint, replacing the last one only when the new one is whole."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimizer")}
        partial = self.path.with_suffix(".partial")
        facts = {"done_steps": self.done_steps, "seconds": self.seconds, "decoder_of": self._decoder_of}
        torch.save({**parts, **facts}, partial)
        partial.replace(self.path)

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self.path.exists():
            state = torch.load(self.path)
            if state.get("decoder_of") != self._decoder_of:
                raise SystemExit(
                    f"--decoder-of: {self.path} was made with {state.get('decoder_of')}, not with {self._decoder_of}; "
                    "give that, or another --output"
                )
            for name in ("model", "average", "optimizer"):
                getattr(self, name).load_state_dict(state[name])
            self.done_steps, self.seconds = state["done_steps"], state["seconds"]


@torch.no_grad()
def reconstruct(model: AutoencoderKLLTXVideo, clips: Pixels) -> Pixels:
    """Encode and decode uint8 clips [N, K, H, W, C]."""
    outputs = []
    for batch in torch.from_numpy(clips).permute(0, 4, 1, 2, 3).split(32):
        decoded = model.decode(model.encode(to_model(batch)).latent_dist.mode()).sample
        outputs.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(outputs).permute(0, 2, 3, 4, 1).contiguous().numpy()


def evaluate(model: AutoencoderKLLTXVideo, count: int) -> dict[str, float]:
    """Return PSNR and the percentage of reconstructions that measure right, on held-out clips and on the effect."""
    figures = {}
    for name, rendered in (
        ("clips", [render_clip(n, HELD_OUT_SEED, split="held_out") for n in range(count)]),
        ("effect", [render_effect(n, HELD_OUT_SEED, split="held_out") for n in range(count)]),
    ):
        clips = np.stack([pixels for pixels, _ in rendered])
        outputs = reconstruct(model, clips)
        error = np.mean((outputs.astype(np.float32) - clips) ** 2)
        rights = [measure_clip(output, truth).is_right for output, (_, truth) in zip(outputs, rendered, strict=True)]
        figures[f"{name}_psnr"] = round(float(10 * np.log10(255**2 / error)), 2)
        figures[f"{name}_right_percent"] = round(100 * sum(rights) / count, 2)
    return figures


@torch.no_grad()
def normalize_latents(model: AutoencoderKLLTXVideo, pool: Tensor) -> dict[str, float]:
    """Set the buffers with which each latent channel gets mean 0 and deviation 1."""
    posteriors = [model.encode(to_model(batch)).latent_dist for batch in pool[:2048].split(32)]
    means = torch.cat([posterior.mean for posterior in posteriors])
    model.latents_mean.copy_(means.mean(dim=(0, 2, 3, 4)))
    model.latents_std.copy_(means.std(dim=(0, 2, 3, 4)))
    noise = torch.cat([posterior.std for posterior in posteriors]).mean().item()
    return {
        "least_std": model.latents_std.min().item(),
        "largest_std": model.latents_std.max().item(),
        "posterior_std": noise,
    }


def train(training: Training, pool: Tensor, options: Options) -> None:
    """Take steps until the minutes are used up; log and save on the way."""
    started = logged = saved = time.monotonic()
    losses = []
    while (left := 1 - (time.monotonic() - started) / max(60 * options.minutes, 1e-6)) > 0:
        before = time.monotonic()
        losses.append(training.step(pool, left))
        now = time.monotonic()
        training.seconds += now - before
        if now - logged > 180:
            loss = round(torch.stack(losses).mean().item(), 5)
            figures = {"step": training.done_steps, "seconds": round(training.seconds), "loss": loss}
            print(json.dumps(figures | evaluate(training.average, 128)), flush=True)
            losses.clear()
            logged = time.monotonic()
        if now - saved > 120:
            training.save()
            saved = now
    training.save()


def main() -> None:
    """Train until the minutes are used up, then write the averaged weights."""
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
    if options.decoder_of is None:
        print(json.dumps(normalize_latents(model, pool)), flush=True)
    model.save_pretrained(options.output / "vae")
    figures = {"step": training.done_steps, "seconds": round(training.seconds)} | evaluate(model, 1000)
    (options.output / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
