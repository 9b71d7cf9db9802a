"""CogVideoX, whose blocks are named anew in ComfyUI; everything else that reads adapters of it knows diffusers' names."""

from finetrainers.export.names.base import Names, Native, by_table

IN_BLOCKS = {
    "norm1.linear": "norm1.linear",
    "norm2.linear": "norm2.linear",
    "attn1.to_q": "q",
    "attn1.to_k": "k",
    "attn1.to_v": "v",
    "attn1.to_out.0": "attn_out",
    "ff.net.0.proj": "ff_proj",
    "ff.net.2": "ff_out",
}
TABLE = {f"transformer_blocks.*.{own}": Native(f"blocks.*.{name}") for own, name in IN_BLOCKS.items()}
TABLE |= {name: Native(name) for name in ("patch_embed.proj", "patch_embed.text_proj", "norm_out.linear", "proj_out")}
TABLE |= {
    f"{own}_embedding.linear_{number}": Native(f"{own}_embedding_linear_{number}")
    for own in ("time", "ofs")
    for number in (1, 2)
}
COGVIDEOX = Names(
    "cogvideox",
    "CogVideoXTransformer3DModel",
    by_table(TABLE),
    kohya=Native,
    implementation="https://github.com/comfyanonymous/ComfyUI",
    version="cogvideox",
    in_comfyui="the layers have the names of ComfyUI's own CogVideoX; a custom node that generates by diffusers takes "
    "--to kohya or --to diffusers",
)
