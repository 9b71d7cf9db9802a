"""CogView4: GLM prompts of any length without a mask, picture sizes as inputs, time steps before the shift.

Shape letters as in ``finetrainers.batch``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetrainers.batch import Prompt, Text, stack_padded
from finetrainers.distributed.context import ContextPlan
from finetrainers.models import Grid, ModelAdapter, Settings, register_model
from finetrainers.models.facts import LatentFacts, PictureFacts, RecipeFacts, TextFacts, TrainingFacts
from finetrainers.models.noise import NoiseLevels, ResolutionShift, shift_sigma

LENGTH = "prompt_length"
"""Tokens of each prompt, [B]: shorter ones end in zeros, which the model must not see."""


@register_model("cogview4")
class CogView4(ModelAdapter):
    """Zhipu's CogView4-6B."""

    pipelines = {"text-to-image": "CogView4Pipeline"}
    blocks = ("CogView4TransformerBlock",)
    input_layer = "patch_embed.proj"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")  # one attention a block, over text and picture
    dispatches_attention = False

    latents = LatentFacts(is_image_vae=True)
    text = TextFacts(max_length=1024)
    training = TrainingFacts(
        noise_levels=NoiseLevels("uniform"),  # as the authors' CogKit draws time steps
        shift="scheduler",
    )
    recipe = RecipeFacts(
        lr=5e-5,  # the authors' CogKit, for LoRA and for all weights
        full_lr=5e-5,
        rank=64,  # the least that the authors advise for CogVideoX; they name none for this model
        size=(1, 1024, 1024),  # what the pipeline draws by default
    )
    pictures = PictureFacts(control_pipelines={"text-to-image": "CogView4ControlPipeline"})

    def make_grid(self, vae: Settings, denoiser: Settings) -> Grid:
        vae_step = 2 ** (len(vae["block_out_channels"]) - 1)
        return Grid(channels=vae["latent_channels"], vae_step=vae_step, patch=denoiser["patch_size"], has_video=False)

    def resolution_shift(self) -> ResolutionShift:
        settings = self.scheduler
        return ResolutionShift(
            base_tokens=settings.get("base_image_seq_len", 256),
            base_mu=settings.get("base_shift", 0.25),
            max_mu=settings.get("max_shift", 0.75),
            curve="root",
            is_exponential=settings.get("time_shift_type", "exponential") == "exponential",
        )

    def encode_prompt(self, pipeline: Any, captions: Sequence[str], *, max_length: int, device: torch.device) -> Text:
        # One at a time: the padding, to a multiple of 16 tokens, would otherwise depend on the other captions.
        embeds = [
            pipeline.encode_prompt(
                [caption], do_classifier_free_guidance=False, max_sequence_length=max_length, device=device
            )[0][0]
            for caption in captions
        ]
        return {"prompt_embeds": stack_padded(embeds), LENGTH: torch.tensor([len(tokens) for tokens in embeds])}

    def blank_text(self, length: int) -> Text:
        return {"prompt_embeds": torch.zeros(length, self.settings["text_embed_dim"]), LENGTH: torch.tensor(length)}

    def sampling_text(self, text: Text) -> Text:
        return {"prompt_embeds": text["prompt_embeds"][:, : int(text[LENGTH][0])]}

    def arrange(self, x: Tensor) -> Tensor:
        return x[:, :, 0]

    def denoise(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, prompt: Prompt) -> Tensor:
        # One row at a time, since prompts differ in length and nothing masks their ends. Not one call for each length:
        # sharded weights are gathered in each call, so that all ranks have to make equally many.
        rows = [slice(row, row + 1) for row in range(len(x))]
        return torch.cat([self._denoise_one(denoiser, x[row], sigma[row], prompt.rows(row)) for row in rows])

    def _denoise_one(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, prompt: Prompt) -> Tensor:
        embeds = self.sampling_text(prompt.text)["prompt_embeds"]
        height, width = (side * self.grid.vae_step for side in x.shape[-2:])
        size = torch.cat([embeds.new_full((1, 1), height), embeds.new_full((1, 1), width)], dim=1)
        velocity: Tensor = denoiser(
            hidden_states=self.arrange(x),
            encoder_hidden_states=embeds,
            timestep=1000 * self._unshift(sigma[:, 0], self.grid.tokens_of_latents(x.shape[2:])),
            original_size=size,
            target_size=size,
            crop_coords=torch.zeros_like(size),
            return_dict=False,
        )[0]
        return velocity[:, :, None]

    def context_plan(self) -> ContextPlan:
        from diffusers.models._modeling_parallel import ContextParallelInput as Split, ContextParallelOutput as Join

        modules = {
            "rope": dict.fromkeys((0, 1), Split(0, 2, split_output=True)),
            "transformer_blocks.0": {"hidden_states": Split(1, 3)},
            "proj_out": Join(1, 3),
        }
        return ContextPlan(num_heads=self.settings["num_attention_heads"], modules=modules, prompt="first")

    def _unshift(self, sigma: Tensor, tokens: int) -> Tensor:
        """Noise levels before the shift: the pipeline shifts those of its schedule, but not the time steps it tells."""
        shift = self.scheduler.get("shift", 1.0)
        if self.scheduler.get("use_dynamic_shifting"):
            shift = self.resolution_shift()(tokens)
        return shift_sigma(sigma.double(), 1 / shift).to(sigma.dtype)
