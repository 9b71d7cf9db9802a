"""Which files hold the weights of a network."""

from pathlib import Path

from finetrainers.models.place import Place
from finetrainers.models.weights import files_in_index

DIFFUSERS_FILE, TRANSFORMERS_FILE = "diffusion_pytorch_model.safetensors", "model.safetensors"
"""A network's weights as each library names them; where they are in several files, these have an index named so as well."""


def index_name(file: str) -> str:
    """Name the index of weights that are in several files."""
    return f"{file}.index.json"


def network_files(place: Place, library: str) -> list[Path]:
    """Find the safetensors files that a network's library would read, downloading those that are on the Hub.

    diffusers looks for an index first, and transformers for the whole file: what else is there is left over.

    Args:
        place: Of the network.
        library: That has its class.

    Returns:
        None at all if it has neither.

    Raises:
        ModelError: If the index cannot be read, or names a file that is not there.
    """
    if library == "diffusers":
        index = place.find(index_name(DIFFUSERS_FILE))
        whole = place.find(DIFFUSERS_FILE) if index is None else None
    else:
        whole = place.find(TRANSFORMERS_FILE)
        index = place.find(index_name(TRANSFORMERS_FILE)) if whole is None else None
    if index is not None:
        return [place.file(name) for name in files_in_index(index)]
    return [] if whole is None else [whole]
