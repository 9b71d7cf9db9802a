"""HunyuanVideo, whose q, k and v are one matrix natively, in single blocks with the first layer of the perceptron."""

from finetrainers.export.names.base import QKV_MLP, Names, Native, by_table, fused

DOUBLE, SINGLE = "transformer_blocks.*", "single_transformer_blocks.*"
REFINER, NATIVE_REFINER = "context_embedder.token_refiner.refiner_blocks.*", "txt_in.individual_token_refiner.blocks.*"
TABLE = {
    **fused(tuple(f"{DOUBLE}.attn.to_{part}" for part in "qkv"), "double_blocks.*.img_attn_qkv"),
    **fused(tuple(f"{DOUBLE}.attn.add_{part}_proj" for part in "qkv"), "double_blocks.*.txt_attn_qkv"),
    f"{DOUBLE}.attn.to_out.0": Native("double_blocks.*.img_attn_proj"),
    f"{DOUBLE}.attn.to_add_out": Native("double_blocks.*.txt_attn_proj"),
    f"{DOUBLE}.ff.net.0.proj": Native("double_blocks.*.img_mlp.fc1"),
    f"{DOUBLE}.ff.net.2": Native("double_blocks.*.img_mlp.fc2"),
    f"{DOUBLE}.ff_context.net.0.proj": Native("double_blocks.*.txt_mlp.fc1"),
    f"{DOUBLE}.ff_context.net.2": Native("double_blocks.*.txt_mlp.fc2"),
    f"{DOUBLE}.norm1.linear": Native("double_blocks.*.img_mod.linear"),
    f"{DOUBLE}.norm1_context.linear": Native("double_blocks.*.txt_mod.linear"),
    **fused((*(f"{SINGLE}.attn.to_{part}" for part in "qkv"), f"{SINGLE}.proj_mlp"), "single_blocks.*.linear1", QKV_MLP),
    f"{SINGLE}.proj_out": Native("single_blocks.*.linear2"),
    f"{SINGLE}.norm.linear": Native("single_blocks.*.modulation.linear"),
    **fused(tuple(f"{REFINER}.attn.to_{part}" for part in "qkv"), f"{NATIVE_REFINER}.self_attn_qkv"),
    f"{REFINER}.attn.to_out.0": Native(f"{NATIVE_REFINER}.self_attn_proj"),
    f"{REFINER}.ff.net.0.proj": Native(f"{NATIVE_REFINER}.mlp.fc1"),
    f"{REFINER}.ff.net.2": Native(f"{NATIVE_REFINER}.mlp.fc2"),
    f"{REFINER}.norm_out.linear": Native(f"{NATIVE_REFINER}.adaLN_modulation.1"),
    "context_embedder.proj_in": Native("txt_in.input_embedder"),
    "proj_out": Native("final_layer.linear"),
}
HUNYUAN_VIDEO = Names(
    "hunyuan_video",
    "HunyuanVideoTransformer3DModel",
    by_table(TABLE),
    implementation="https://github.com/Tencent/HunyuanVideo",
    version="hunyuanvideo",
)
