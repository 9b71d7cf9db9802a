"""Parts of tiny pipelines that several families share: words, widths, text encoders, and encoders aimed at latents."""

import math

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase, T5Config, T5EncoderModel

WORDS = """
    a an the of on in at with and to is are it no photo picture video clip scene style red green blue yellow orange
    purple black white grey brown small large round square circle triangle star cube ball cat dog horse bird fish person
    man woman child robot car train boat house tree flower mountain river sea sky sun moon left right above below
    walking running jumping turning moving slowly quickly holding crushing
"""
"""What the tokenizers know whole; any other word is spelled."""
HEADS, HEAD_DIM = 2, 16
T5_DIM, CLIP_DIM = 48, 16
"""Unlike each other and unlike the transformer's 32: a mix-up does not go unnoticed."""
SILU_POWER = 0.3558
"""Mean of silu(x)**2 for x of the standard normal distribution: what reaches an encoder's last convolution."""
POSTERIOR_STD = 0.1
"""Standard deviation of the encoder's posterior, relative to that of the latents: sample() and mode() differ."""


def t5(tokenizer: PreTrainedTokenizerBase) -> T5EncoderModel:
    """T5 1.1's encoder, which several families use."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=T5_DIM,
        d_kv=HEAD_DIM,
        d_ff=64,
        num_layers=2,
        num_heads=HEADS,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def clip(tokenizer: PreTrainedTokenizerBase) -> CLIPTextModel:
    """CLIP's text encoder, whose pooled output the families use."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=CLIP_DIM,
        intermediate_size=2 * CLIP_DIM,
        projection_dim=CLIP_DIM,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        # The pooled embedding is read at the first end of text: a wrong id would read position 0 for every caption.
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


@torch.no_grad()
def aim(head: nn.Conv2d | nn.Conv3d, *, mean: Tensor, std: Tensor) -> None:
    """Draw an encoder's last convolution so that its latents have about this mean and deviation, [C] each.

    The channels that follow are log variances of the posterior; they become a constant.
    """
    assert head.bias is not None
    num_latents = len(mean)
    weight = torch.randn_like(head.weight[:num_latents])
    scale = std / math.sqrt(SILU_POWER * weight[0].numel())
    head.weight.zero_()
    head.weight[:num_latents] = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    head.bias[:num_latents] = mean
    head.bias[num_latents:] = 2 * torch.log(POSTERIOR_STD * std.mean())
