"""Names of layers in the authors' checkpoints, from their code and from ComfyUI's: blocks by the place of their number."""

NATIVE = {
    "wan": {
        *(f"blocks.*.self_attn.{own}" for own in ("q", "k", "v", "o")),
        *(f"blocks.*.cross_attn.{own}" for own in ("q", "k", "v", "o", "k_img", "v_img")),
        "blocks.*.ffn.0",
        "blocks.*.ffn.2",
        "time_embedding.0",
        "time_embedding.2",
        "text_embedding.0",
        "text_embedding.2",
        "time_projection.1",
        "head.head",
        "img_emb.proj.1",
        "img_emb.proj.3",
    },
    "flux": {
        *(
            f"double_blocks.*.{own}_{part}"
            for own in ("img", "txt")
            for part in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2", "mod.lin")
        ),
        *(f"single_blocks.*.{own}" for own in ("linear1", "linear2", "modulation.lin")),
        *(f"{own}_in.{side}_layer" for own in ("time", "vector", "guidance") for side in ("in", "out")),
        "img_in",
        "txt_in",
        "final_layer.linear",
    },
    "hunyuan_video": {
        *(
            f"double_blocks.*.{own}_{part}"
            for own in ("img", "txt")
            for part in ("attn_qkv", "attn_proj", "mlp.fc1", "mlp.fc2", "mod.linear")
        ),
        *(f"single_blocks.*.{own}" for own in ("linear1", "linear2", "modulation.linear")),
        *(
            f"txt_in.individual_token_refiner.blocks.*.{own}"
            for own in ("self_attn_qkv", "self_attn_proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")
        ),
        "txt_in.input_embedder",
        "final_layer.linear",
    },
    "ltx_video": {
        *(f"transformer_blocks.*.attn{n}.{own}" for n in (1, 2) for own in ("to_q", "to_k", "to_v", "to_out.0")),
        "transformer_blocks.*.ff.net.0.proj",
        "transformer_blocks.*.ff.net.2",
        "patchify_proj",
        "proj_out",
        "adaln_single.emb.timestep_embedder.linear_1",
        "adaln_single.emb.timestep_embedder.linear_2",
        "adaln_single.linear",
        "caption_projection.linear_1",
        "caption_projection.linear_2",
    },
}
"""By family; of CogVideoX and CogView4, diffusers' names are what most programs take."""
