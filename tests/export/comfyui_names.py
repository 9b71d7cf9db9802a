"""Names under which ComfyUI looks for the layers of a LoRA, by family: facts of its loader (comfy/lora.py) and its models.

Blocks are written by the place of their number. Any layer X of a model is found as ``diffusion_model.X`` and, with
underscores, as ``lora_unet_X``; some families have further names.
"""

from native_keys import NATIVE

HUNYUAN_VIDEO = {
    *(f"double_blocks.*.{own}_{part}" for own in ("img", "txt") for part in ("attn.qkv", "attn.proj", "mod.lin")),
    *(f"double_blocks.*.{own}_mlp.{part}" for own in ("img", "txt") for part in (0, 2)),
    *(f"single_blocks.*.{own}" for own in ("linear1", "linear2", "modulation.lin")),
    *(
        f"txt_in.individual_token_refiner.blocks.*.{own}"
        for own in ("self_attn.qkv", "self_attn.proj", "mlp.0", "mlp.2", "adaLN_modulation.1")
    ),
    "txt_in.input_embedder",
    "final_layer.linear",
}  # fmt: skip
"""Of its own model, which is not named as the authors' is."""
COGVIDEOX = {
    *(f"blocks.*.{own}" for own in ("q", "k", "v", "attn_out", "ff_proj", "ff_out", "norm1.linear", "norm2.linear")),
    *(f"{own}_embedding_linear_{n}" for own in ("time", "ofs") for n in (1, 2)),
    "patch_embed.proj", "patch_embed.text_proj", "norm_out.linear", "proj_out",
}  # fmt: skip
"""Of its own model (comfy/ldm/cogvideo/model.py)."""
OLD_NAMES = {
    "_mod.lin": "_mod.linear", "_attn.qkv": "_attn_qkv", "_attn.proj": "_attn_proj", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2",
    ".modulation.lin": ".modulation.linear",
}  # fmt: skip
"""What it takes for the ends of those as well: the authors' names."""
FLUX = {
    *(f"transformer_blocks.*.attn.{own}" for own in ("to_q", "to_k", "to_v", "to_out.0", "to_add_out")),
    *(f"transformer_blocks.*.attn.add_{own}_proj" for own in "qkv"),
    *(f"transformer_blocks.*.{own}.net.{part}" for own in ("ff", "ff_context") for part in ("0.proj", "2")),
    *(f"transformer_blocks.*.{own}.linear" for own in ("norm1", "norm1_context")),
    *(f"single_transformer_blocks.*.attn.to_{own}" for own in "qkv"),
    *(f"single_transformer_blocks.*.{own}" for own in ("proj_mlp", "proj_out", "norm.linear")),
    *(f"time_text_embed.{own}_embedder.linear_{n}" for own in ("timestep", "text", "guidance") for n in (1, 2)),
    "x_embedder", "context_embedder", "proj_out", "norm_out.linear",
}  # fmt: skip
"""Names of diffusers that it knows of FLUX.1: with ``transformer.``, and with ``lycoris_`` and underscores."""
ENDINGS = {
    "lora_A.weight", "lora_B.weight", "alpha", "dora_scale",
    *(f"lokr_{own}" for own in ("w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b")),
}  # fmt: skip
"""What it reads of a layer, as far as it is written here."""


def known_names(family: str) -> set[str]:
    """All names under which it finds a layer of the family."""
    own = {**NATIVE, "cogvideox": COGVIDEOX, "hunyuan_video": HUNYUAN_VIDEO}[family]
    found = {f"diffusion_model.{name}" for name in own} | {f"lora_unet_{name.replace('.', '_')}" for name in own}
    if family == "flux":
        found |= {f"transformer.{name}" for name in FLUX} | {f"lycoris_{name.replace('.', '_')}" for name in FLUX}
    if family == "hunyuan_video":
        found |= {f"diffusion_model.{_old(name)}" for name in own}
    return found


def _old(name: str) -> str:
    end = next((end for end in OLD_NAMES if name.endswith(end)), None)
    return name if end is None else name.removesuffix(end) + OLD_NAMES[end]
