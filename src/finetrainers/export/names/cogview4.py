"""CogView4: programs that generate with it know diffusers' names alone."""

from finetrainers.export.names.base import Names, Native

COGVIEW4 = Names(
    "cogview4",
    "CogView4Transformer2DModel",
    Native,
    comfyui="scaled",
    version="cogview4",
    in_comfyui="ComfyUI has no CogView4 of its own: the file is for a custom node that loads LoRA by diffusers",
)
