"""HunyuanVideo in small, with the prompt template's tokens, LLaVA's 576 image tokens and both ways to take a picture."""

from collections.abc import Callable, Mapping

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video, pipeline_hunyuan_video_image2video
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from finetrainers.testing.parts import CLIP_DIM, HEADS, WORDS, aim, clip
from finetrainers.testing.tokenizers import make_clip_tokenizer, make_llama_tokenizer

LLAMA_DIM = 48
"""Unlike CLIP's 16 and the transformer's 96."""
LLAMA_LAYERS = 4
"""The prompt's embeddings are taken two layers before the last: they have gone through two."""
ROTARY_DIM = 48
"""Of one of two heads, whose 96 hold the 64 numbers of a token: a narrower transformer cannot tell noise from data."""
SCALING_FACTOR = 0.476986


def _t2v() -> HunyuanVideoPipeline:
    tokenizer = make_llama_tokenizer([pipeline_hunyuan_video.DEFAULT_PROMPT_TEMPLATE["template"].format(""), WORDS])
    text_encoder = LlamaModel(_llama(tokenizer))
    tokenizer_2 = make_clip_tokenizer(WORDS.split())
    pipeline = HunyuanVideoPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=clip(tokenizer_2),
        tokenizer_2=tokenizer_2,
        transformer=_transformer(in_channels=16, guidance_embeds=True, image_condition_type=None),
    )
    pipeline.register_to_config(tokenizer=("transformers", "LlamaTokenizerFast"))  # as published
    return pipeline


def _i2v() -> HunyuanVideoImageToVideoPipeline:
    return _image_to_video(_transformer(in_channels=16, guidance_embeds=True, image_condition_type="token_replace"))


def _i2v_33ch() -> HunyuanVideoImageToVideoPipeline:
    return _image_to_video(_transformer(in_channels=33, guidance_embeds=False, image_condition_type="latent_concat"))


def _image_to_video(transformer: HunyuanVideoTransformer3DModel) -> HunyuanVideoImageToVideoPipeline:
    template = pipeline_hunyuan_video_image2video.DEFAULT_PROMPT_TEMPLATE["template"].format("")
    tokenizer = make_llama_tokenizer([template, WORDS])
    tokenizer_2 = make_clip_tokenizer(WORDS.split())
    vision = CLIPVisionConfig(
        hidden_size=CLIP_DIM,
        intermediate_size=2 * CLIP_DIM,
        projection_dim=CLIP_DIM,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        image_size=336,
        patch_size=14,  # 24 x 24 tokens, which the pipeline counts on
    )
    llava = LlavaConfig(
        vision_config=vision,
        text_config=_llama(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    pipeline = HunyuanVideoImageToVideoPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=_vae(),
        text_encoder=LlavaForConditionalGeneration(llava),
        tokenizer=tokenizer,
        text_encoder_2=clip(tokenizer_2),
        tokenizer_2=tokenizer_2,
        transformer=transformer,
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
    )
    pipeline.register_to_config(  # as published
        tokenizer=("transformers", "LlamaTokenizerFast"), image_processor=("transformers", "CLIPImageProcessor")
    )
    return pipeline


def _llama(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=LLAMA_DIM,
        intermediate_size=2 * LLAMA_DIM,
        num_hidden_layers=LLAMA_LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,  # as wide as a trained model's: captions differ
    )


@torch.no_grad()
def _vae() -> AutoencoderKLHunyuanVideo:
    """16 latent channels at 1/8 of the frame's size and 1/4 of the frames."""
    vae = AutoencoderKLHunyuanVideo(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4)
    aim(vae.encoder.conv_out.conv, mean=torch.zeros(16), std=torch.full([16], 1 / SCALING_FACTOR))
    nn.init.dirac_(vae.quant_conv.weight)  # what the encoder was aimed at goes through
    nn.init.zeros_(vae.quant_conv.bias)
    return vae


def _transformer(
    *, in_channels: int, guidance_embeds: bool, image_condition_type: str | None
) -> HunyuanVideoTransformer3DModel:
    return HunyuanVideoTransformer3DModel(
        in_channels=in_channels,
        out_channels=16,
        num_attention_heads=HEADS,
        attention_head_dim=ROTARY_DIM,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        text_embed_dim=LLAMA_DIM,
        pooled_projection_dim=CLIP_DIM,
        rope_axes_dim=(8, 20, 20),
        guidance_embeds=guidance_embeds,
        image_condition_type=image_condition_type,
    )


HUNYUAN_VIDEO: Mapping[str, Callable[[], DiffusionPipeline]] = {"t2v": _t2v, "i2v": _i2v, "i2v-33ch": _i2v_33ch}
