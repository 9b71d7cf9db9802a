"""Text encoders of the quick start's bases: real T5 and CLIP classes whose weights are constructed, not trained.

T5 tells each word's neighbours: every word has a code, and each head of its one layer copies the code of the word at one
distance into a part of the output of its own. So a colour's token says which shape it belongs to, without training.
CLIP's pooled output is the bag of words. A word that the base never saw has a code as good as any other's.

Shapes are as transformers has them: T5's weights are [out, in], its hidden states [B, T, D].
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from finetrainers.quickstart.drawing import COLOURS, SHAPES
from finetrainers.testing.tokenizers import make_clip_tokenizer, make_t5_tokenizer

SENTENCES = """
    a an in at on of the with and to two three row column small large bar banner stripes vertical horizontal
    top bottom left right middle above below ,
    moves grows shrinks stays spins squashes dissolves turns fades into from slowly then up down across
"""
WORDS = (*COLOURS, *SHAPES, *(f"{shape}s" for shape in SHAPES), *SENTENCES.split())
"""Every word of the pictures' and the clips' captions; others are spelled."""

MAX_TOKENS = 16
"""Tokens of the longest caption, its end included."""

WORD_DIM, NEIGHBOUR_DIM = 64, 32
DISTANCES = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)
"""From a word to the neighbours that its encoding tells. T5 has a bucket of its own for each distance below 8."""
T5_DIM = WORD_DIM + NEIGHBOUR_DIM * len(DISTANCES)
CLIP_DIM = 64
CERTAIN = 30.0
"""Attention logit of a head's one distance; all others have 0."""


def make_t5(seed: int) -> tuple[T5TokenizerFast, T5EncoderModel]:
    """Build the tokenizer and an encoder whose output is [B, T, T5_DIM]: the word, then the neighbour of each distance."""
    tokenizer = make_t5_tokenizer(spaced(WORDS), max_length=MAX_TOKENS)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=T5_DIM,
        d_kv=NEIGHBOUR_DIM,
        d_ff=8,
        num_layers=1,
        num_heads=len(DISTANCES),
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    model = T5EncoderModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        layer = model.encoder.block[0].layer
        attention = layer[0].SelfAttention
        codes = spread_out(len(tokenizer), WORD_DIM, generator) * WORD_DIM**0.5
        codes[tokenizer.pad_token_id] = 0.0
        model.shared.weight[:, :WORD_DIM] = codes
        for norm in (layer[0].layer_norm, layer[1].layer_norm, model.encoder.final_layer_norm):
            norm.weight.fill_(1.0)
        for head, distance in enumerate(DISTANCES):
            part = slice(head * NEIGHBOUR_DIM, (head + 1) * NEIGHBOUR_DIM)
            # The norm before attention divides a code by the root of its mean square over all T5_DIM channels.
            attention.v.weight[part, :WORD_DIM] = spread_out(NEIGHBOUR_DIM, WORD_DIM, generator) * (WORD_DIM / T5_DIM) ** 0.5
            attention.o.weight[WORD_DIM + part.start : WORD_DIM + part.stop, part] = torch.eye(NEIGHBOUR_DIM)
            buckets = attention._relative_position_bucket(torch.tensor([distance]))
            attention.relative_attention_bias.weight[buckets, head] = CERTAIN
    return tokenizer, model


def make_clip(seed: int) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Build the tokenizer and an encoder whose pooled output, [B, CLIP_DIM], is the normalized sum of the words' codes."""
    tokenizer = make_clip_tokenizer(spaced(WORDS))
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=CLIP_DIM,
        intermediate_size=8,
        projection_dim=CLIP_DIM,
        num_hidden_layers=1,
        num_attention_heads=1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = CLIPTextModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                parameter.fill_(1.0 if isinstance(module, nn.LayerNorm) and name == "weight" else 0.0)
        weights = dict(model.named_parameters())
        codes = spread_out(len(tokenizer), CLIP_DIM, generator)
        # Both ends have one code and its opposite: they cancel in the sum, and neither is zero, which a norm cannot scale.
        codes[tokenizer.eos_token_id] = -codes[tokenizer.bos_token_id]
        weights[_ending(weights, "token_embedding.weight")].copy_(codes * 1e-3)
        for part in ("v_proj", "out_proj"):
            weights[_ending(weights, f"self_attn.{part}.weight")].copy_(torch.eye(CLIP_DIM))
    return tokenizer, model


def _ending(names: object, ending: str) -> str:
    """Return the one name that ends so: the names' beginnings differ between versions of transformers."""
    (name,) = [name for name in names if name.endswith(ending)]  # type: ignore[attr-defined]
    return str(name)


def spaced(words: Sequence[str]) -> list[str]:
    """Return each word once, in order."""
    return list(dict.fromkeys(words))


def spread_out(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Draw rows of length 1; up to ``columns`` of them are orthogonal, and more of them are random."""
    drawn = torch.randn(rows, columns, generator=generator)
    if rows <= columns:
        orthogonal: Tensor = torch.linalg.qr(drawn.T)[0]
        return orthogonal.T.contiguous()
    return nn.functional.normalize(drawn, dim=1)
