"""FLUX.1, whose q, k and v are one matrix natively, in single blocks with the first layer of the perceptron."""

from finetrainers.export.names.base import QKV_MLP, Names, Native, by_table, fused

DOUBLE, SINGLE = "transformer_blocks.*", "single_transformer_blocks.*"
TABLE = {
    **fused(tuple(f"{DOUBLE}.attn.to_{part}" for part in "qkv"), "double_blocks.*.img_attn.qkv"),
    **fused(tuple(f"{DOUBLE}.attn.add_{part}_proj" for part in "qkv"), "double_blocks.*.txt_attn.qkv"),
    f"{DOUBLE}.attn.to_out.0": Native("double_blocks.*.img_attn.proj"),
    f"{DOUBLE}.attn.to_add_out": Native("double_blocks.*.txt_attn.proj"),
    f"{DOUBLE}.ff.net.0.proj": Native("double_blocks.*.img_mlp.0"),
    f"{DOUBLE}.ff.net.2": Native("double_blocks.*.img_mlp.2"),
    f"{DOUBLE}.ff_context.net.0.proj": Native("double_blocks.*.txt_mlp.0"),
    f"{DOUBLE}.ff_context.net.2": Native("double_blocks.*.txt_mlp.2"),
    f"{DOUBLE}.norm1.linear": Native("double_blocks.*.img_mod.lin"),
    f"{DOUBLE}.norm1_context.linear": Native("double_blocks.*.txt_mod.lin"),
    **fused((*(f"{SINGLE}.attn.to_{part}" for part in "qkv"), f"{SINGLE}.proj_mlp"), "single_blocks.*.linear1", QKV_MLP),
    f"{SINGLE}.proj_out": Native("single_blocks.*.linear2"),
    f"{SINGLE}.norm.linear": Native("single_blocks.*.modulation.lin"),
    "x_embedder": Native("img_in"),
    "context_embedder": Native("txt_in"),
    "proj_out": Native("final_layer.linear"),
}
TABLE |= {
    f"time_text_embed.{own}_embedder.linear_{number}": Native(f"{name}_in.{side}_layer")
    for own, name in {"timestep": "time", "text": "vector", "guidance": "guidance"}.items()
    for number, side in ((1, "in"), (2, "out"))
}
FLUX = Names(
    "flux",
    "FluxTransformer2DModel",
    by_table(TABLE),
    comfyui="diffusers",  # it finds q, k and v in the rows of the matrix: nothing is fused, so LoKr can be read as well
    implementation="https://github.com/black-forest-labs/flux",
    version="flux1",
)
