"""Wan 2.1 and 2.2."""

from finetrainers.export.names.base import Names, Native, by_table

ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o", "add_k_proj": "k_img", "add_v_proj": "v_img"}
TABLE = {
    **{f"blocks.*.attn1.{own}": Native(f"blocks.*.self_attn.{name}") for own, name in ATTENTION.items()},
    **{f"blocks.*.attn2.{own}": Native(f"blocks.*.cross_attn.{name}") for own, name in ATTENTION.items()},
    "blocks.*.ffn.net.0.proj": Native("blocks.*.ffn.0"),
    "blocks.*.ffn.net.2": Native("blocks.*.ffn.2"),
    "condition_embedder.time_embedder.linear_1": Native("time_embedding.0"),
    "condition_embedder.time_embedder.linear_2": Native("time_embedding.2"),
    "condition_embedder.text_embedder.linear_1": Native("text_embedding.0"),
    "condition_embedder.text_embedder.linear_2": Native("text_embedding.2"),
    "condition_embedder.time_proj": Native("time_projection.1"),
    "condition_embedder.image_embedder.ff.net.0.proj": Native("img_emb.proj.1"),
    "condition_embedder.image_embedder.ff.net.2": Native("img_emb.proj.3"),
    "proj_out": Native("head.head"),
}
WAN = Names(
    "wan",
    "WanTransformer3DModel",
    by_table(TABLE),
    implementation="https://github.com/Wan-Video/Wan2.1",
    version="wan2.1",
)
