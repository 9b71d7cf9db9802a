"""What can be known of local files before anything is encoded: whether the weights that a run loads are there and fit."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from finetrainers.conditioning import build_conditioning
from finetrainers.config import Config, FullConfig
from finetrainers.errors import ConfigError, ModelError
from finetrainers.models import Model
from finetrainers.models.weight_files import TRANSFORMERS_FILE
from finetrainers.models.weights import check_stored, files_in_index, read_settings
from finetrainers.tuning import build_tuning

PATTERNS = ("*.safetensors", "*.bin")
"""Files of weights, as diffusers and transformers write them."""
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
"""Files that a tokenizer has its words in, one of them at least; without any, transformers makes an empty one in silence."""


def check_files(config: Config, model: Model, *, is_resumed: bool = False) -> None:
    """Refuse local weights that are missing, cut off or of another model: headers are read, and nothing else of them.

    Raises:
        ModelError: Naming the file.
        ConfigError: If weights to begin from do not fit.
    """
    for name in (*model.denoisers.trained, *model.denoisers.frozen):
        if model.pretrained.place(name).is_local:
            check_stored(model.pretrained.shell(name), model.pretrained.weight_files(name))
    for name in () if is_resumed else ("vae", *model.text_components, *model.image_components):
        place = model.pretrained.place(name)
        folder = Path(place.path) / place.subfolder
        if place.is_local and model.pretrained.has_weights(name):
            _check_folder(name, folder)
        elif place.is_local and name.startswith("tokenizer") and not any((folder / file).is_file() for file in VOCABULARIES):
            raise ModelError(
                f"{name}: {folder} has no vocabulary ({', '.join(VOCABULARIES)}), and would read no word; download it again"
            )
    check_start_fits(config, model)


def check_start_fits(config: Config, model: Model) -> None:
    """Refuse weights to begin from that are of another model or tuning.

    Raises:
        ConfigError: Naming what does not fit.
    """
    start = config.tuning.start_from
    if start is None:
        return
    tuning, conditioning = build_tuning(config.tuning), build_conditioning(config.conditioning)
    for name in model.denoisers.trained:
        shell = model.pretrained.shell(name)
        conditioning.prepare(shell, model.adapter)
        if isinstance(config.tuning, FullConfig):
            _check_full(shell, start / name)
            continue
        modules = conditioning.trained_modules(shell, model.adapter)
        with warnings.catch_warnings():
            # Names and shapes are looked at, and there is nowhere to copy values to.
            warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter", UserWarning)
            tuning.apply(shell, model.adapter, component=name, seed=config.seed, full_modules=modules)


def _check_full(shell: Any, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"tuning.start_from: {folder} holds no weights of full rank; name weights that a run has exported")
    try:
        if "quantization_config" not in read_settings(folder / "config.json"):  # else tensors have other names
            check_stored(shell, sorted(folder.glob("*.safetensors")))
    except ModelError as error:
        raise ConfigError(f"tuning.start_from: {folder} does not fit ({error}); name weights of the same model") from error


def _check_folder(component: str, folder: Path) -> None:
    """Refuse a component's folder without complete weights.

    Raises:
        ModelError: Naming the file.
    """
    for index in folder.glob("*.safetensors.index.json"):
        whole = index.with_name(index.name.removesuffix(".index.json"))
        if whole.name == TRANSFORMERS_FILE and whole.is_file():  # transformers looks at no index beside it
            continue
        missing = [file for file in files_in_index(index) if not (folder / file).is_file()]
        if missing:
            way_out = f"remove {index.name}, or download it again" if whole.is_file() else "download it again"
            raise ModelError(f"{component}: {folder / missing[0]} is missing, which {index.name} names; {way_out}")
    files = [file for pattern in PATTERNS for file in sorted(folder.glob(pattern))]
    if not files:
        raise ModelError(f"{component}: {folder} has no weights ({' or '.join(PATTERNS)}); download them")
    check_whole([file for file in files if file.suffix == ".safetensors"])


def check_whole(files: Sequence[Path]) -> None:
    """Refuse safetensors files that are damaged or cut off, by their headers.

    Raises:
        ModelError: Naming the file.
    """
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: is damaged or not whole ({error}); download it again") from error
