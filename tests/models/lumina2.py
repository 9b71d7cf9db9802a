"""Lumina 2 as a family of a user's: its linear input layer takes the channels of a token last."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2Model

from finetrainers import Grid, LatentFacts, ModelAdapter, NoiseLevels, Prompt, TextFacts, TrainingFacts
from finetrainers.batch import Text
from finetrainers.testing.parts import WORDS, aim
from finetrainers.testing.tokenizers import make_t5_tokenizer

CHANNELS = 4
GEMMA_DIM = 48


class Lumina2(ModelAdapter):
    """Alpha-VLLM's Lumina Image 2.0."""

    pipelines = {"text-to-image": "Lumina2Pipeline"}
    blocks = ("Lumina2TransformerBlock",)
    input_layer = "x_embedder"
    input_layout = "channels_last"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    dispatches_attention = False

    latents = LatentFacts(is_image_vae=True)
    text = TextFacts(max_length=256)  # the pipeline begins each prompt with a long sentence of its own
    training = TrainingFacts(noise_levels=NoiseLevels("logit_normal"))

    def make_grid(self, vae: Any, denoiser: Any) -> Grid:
        step = 2 ** (len(vae["block_out_channels"]) - 1)
        return Grid(channels=vae["latent_channels"], vae_step=step, patch=denoiser["patch_size"], has_video=False)

    def encode_prompt(self, pipeline: Any, captions: Sequence[str], *, max_length: int, device: torch.device) -> Text:
        embeds, mask, _, _ = pipeline.encode_prompt(
            list(captions), do_classifier_free_guidance=False, max_sequence_length=max_length, device=device
        )
        return {"prompt_embeds": embeds, "prompt_attention_mask": mask.bool()}

    def arrange(self, x: Tensor) -> Tensor:
        return x[:, :, 0]

    def denoise(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, prompt: Prompt) -> Tensor:
        answer: Tensor = denoiser(
            hidden_states=self.arrange(x),
            timestep=1 - sigma[:, 0],  # 0 is noise
            encoder_hidden_states=prompt.text["prompt_embeds"],
            encoder_attention_mask=prompt.text["prompt_attention_mask"],
            return_dict=False,
        )[0]
        return -answer[:, :, None]  # the model's velocity points to the data


class ChannelsFirst(Lumina2):
    """Says of the input layer what is not so."""

    input_layout = "channels_first"


class WithoutControl(Lumina2):
    """Says nothing of the input layer."""

    input_layout = None


def make_lumina2(directory: Path) -> Path:
    """Write a tiny random pipeline into the directory, and return the directory."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        tokenizer = make_t5_tokenizer(WORDS.split())
        pipeline = Lumina2Pipeline(
            transformer=_transformer(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
            vae=_vae(),
            text_encoder=Gemma2Model(_gemma(len(tokenizer))),
            tokenizer=tokenizer,
        )
    pipeline.save_pretrained(directory)
    return directory


def _transformer() -> Lumina2Transformer2DModel:
    return Lumina2Transformer2DModel(
        in_channels=CHANNELS,
        hidden_size=48,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(8, 8, 8),
        axes_lens=(300, 32, 32),
        cap_feat_dim=GEMMA_DIM,
    )


def _vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        latent_channels=CHANNELS,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1159,
        scaling_factor=0.3611,
    )
    aim(vae.encoder.conv_out, mean=torch.full([CHANNELS], 0.1159), std=torch.full([CHANNELS], 1 / 0.3611))
    return vae


def _gemma(vocab_size: int) -> Gemma2Config:
    return Gemma2Config(
        vocab_size=vocab_size,
        hidden_size=GEMMA_DIM,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
        initializer_range=0.2,  # as wide as a trained model's: captions differ
    )
