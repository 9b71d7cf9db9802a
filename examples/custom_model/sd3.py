"""Stable Diffusion 3 (arXiv:2403.03206)."""

from finetrainers import Grid, LatentFacts, ModelAdapter, NoiseLevels, TextFacts, TrainingFacts


class StableDiffusion3(ModelAdapter):
    """Stability's Stable Diffusion 3 and 3.5."""

    pipelines = {"text-to-image": "StableDiffusion3Pipeline"}  # the first task is the default
    blocks = ("JointTransformerBlock",)
    input_layer = "pos_embed.proj"
    # The projections of both streams, as in diffusers' own SD3 LoRA script.
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    dispatches_attention = False  # diffusers has no choice of attention backends for this model

    latents = LatentFacts(
        statistics="shift_scale",  # shift_factor and scaling_factor in the VAE's config
        is_image_vae=True,
    )
    text = TextFacts(
        components=("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "tokenizer_3", "text_encoder_3"),
        main_tokenizer="tokenizer_3",  # T5's: CLIP's always have 77 tokens
        max_length=256,
    )
    training = TrainingFacts(
        noise_levels=NoiseLevels("logit_normal"),  # section 3.1
        shift="scheduler",  # 3 in the released ones
    )

    def make_grid(self, vae, denoiser):
        """Which sizes are possible, from the two config.json."""
        step, patch = 2 ** (len(vae["block_out_channels"]) - 1), denoiser["patch_size"]
        side = denoiser["pos_embed_max_size"] * patch * step  # there are no positions beyond
        largest = (1, side, side)
        return Grid(channels=vae["latent_channels"], vae_step=step, patch=patch, has_video=False, largest=largest)

    def encode_prompt(self, pipeline, captions, *, max_length, device):
        """Captions to tensors [B, T, D] or [B, D], named as the pipeline's arguments are."""
        embeds, _, pooled, _ = pipeline.encode_prompt(
            list(captions),
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=max_length,
            device=device,
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def arrange(self, x):
        """Latents [B, C, F, H, W] as the transformer takes them; Control asks for it."""
        return x[:, :, 0]

    def denoise(self, denoiser, x, sigma, prompt):
        """Noisy latents [B, C, F, H, W] (behind them, channels of control) at noise levels [B, F] to their velocity."""
        velocity = denoiser(
            hidden_states=self.arrange(x),
            timestep=1000 * sigma[:, 0],
            encoder_hidden_states=prompt.text["prompt_embeds"],
            pooled_projections=prompt.text["pooled_prompt_embeds"],
            return_dict=False,
        )[0]
        return velocity[:, :, None]
