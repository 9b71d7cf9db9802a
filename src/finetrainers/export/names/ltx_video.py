"""LTX-Video, whose blocks have the same names in diffusers."""

from finetrainers.export.names.base import Names, Native

RENAMED = {"proj_in": "patchify_proj", "time_embed": "adaln_single"}


def find(layer: str) -> Native:
    """Native name of a layer."""
    first, dot, rest = layer.partition(".")
    return Native(RENAMED.get(first, first) + dot + rest)


LTX_VIDEO = Names(
    "ltx_video",
    "LTXVideoTransformer3DModel",
    find,
    implementation="https://github.com/Lightricks/LTX-Video",
    version="ltxv",
)
