"""CogVideoX and CogView4: programs that generate with them know diffusers' names alone."""

from finetrainers.export.names.base import Names, Native

COGVIDEOX = Names("cogvideox", "CogVideoXTransformer3DModel", Native, comfyui="scaled", version="cogvideox")
COGVIEW4 = Names("cogview4", "CogView4Transformer2DModel", Native, comfyui="scaled", version="cogview4")
