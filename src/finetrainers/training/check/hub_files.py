"""Whether the Hub has the weights of a model: its lists of files are asked for, and nothing of them is downloaded."""

from collections.abc import Callable, Collection

from finetrainers.errors import ModelError
from finetrainers.models import Model
from finetrainers.models.place import Place, about_hub
from finetrainers.models.weight_files import DIFFUSERS_FILE, TRANSFORMERS_FILE, index_name
from finetrainers.training.check.findings import Findings

SECONDS = 10.0
"""In which the Hub has to answer."""
WEIGHTS = (".safetensors", ".bin")
DENOISERS = (DIFFUSERS_FILE, index_name(DIFFUSERS_FILE))
LOADED = {
    "diffusers": (*DENOISERS, "diffusion_pytorch_model.bin"),
    "transformers": (
        TRANSFORMERS_FILE,
        index_name(TRANSFORMERS_FILE),
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ),
}
"""Names that ``from_pretrained`` of each library looks for. Denoisers are loaded from safetensors alone."""
NAMED = 3
"""Files that a message names."""

Lister = Callable[[str, str | None], Collection[str]]
"""Names of the files of a repository at a revision."""


def list_files(repo: str, revision: str | None) -> Collection[str]:
    """Ask the Hub for the names of a repository's files."""
    from huggingface_hub import HfApi

    return [own.rfilename for own in HfApi().model_info(repo, revision=revision, timeout=SECONDS).siblings or ()]


def check_hub_files(model: Model, findings: Findings, *, lister: Lister = list_files) -> None:
    """Look whether each component on the Hub has weights there; where the Hub does not answer, say that nobody looked."""
    names = (*model.denoisers.trained, *model.denoisers.frozen, "vae", *model.text_components)
    places = [(name, place) for name in names if not (place := model.pretrained.place(name)).is_local]
    if not places:
        return
    findings.leave_out("the weights of the model, which are on the Hub: they are not downloaded")
    with findings.part("files on the Hub"):
        listed: dict[tuple[str, str | None], Collection[str]] = {}
        for name, place in places:
            if not model.pretrained.has_weights(name):
                continue
            found = _listed(place, listed, findings, lister)
            if found is None:
                return
            _check_weights(name, place, found, _loaded(model, name))


def _loaded(model: Model, name: str) -> Collection[str]:
    """Names of the files, one of which a component is loaded from."""
    if name in (*model.denoisers.trained, *model.denoisers.frozen):
        return DENOISERS
    return LOADED["diffusers" if model.pretrained.index[name][0] == "diffusers" else "transformers"]


def _listed(
    place: Place, listed: dict[tuple[str, str | None], Collection[str]], findings: Findings, lister: Lister
) -> Collection[str] | None:
    """Names of the files of a component's repository; None if the Hub does not say.

    Raises:
        ModelError: If it refuses.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    key = place.path, place.revision
    try:
        if key not in listed:
            listed[key] = lister(*key)
        return listed[key]
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        about = f"{place.path} (revision {place.revision or 'main'})"
        raise ModelError(f"{about}: {about_hub(error, place.path)}") from error
    except Exception as error:  # noqa: BLE001 - of whichever HTTP library, or offline: nothing is known of the files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        findings.leave_out(f"the list of files of {place.path} on the Hub, which does not answer ({reason})")
        return None


def _check_weights(name: str, place: Place, files: Collection[str], loaded: Collection[str]) -> None:
    """Refuse a component without a file of weights that can be loaded.

    Raises:
        ModelError: Naming the folder, and what is there.
    """
    folder = f"{place.subfolder}/" if place.subfolder else ""
    own = {file.removeprefix(folder) for file in files if file.startswith(folder)}
    if not own.isdisjoint(loaded):
        return
    others = sorted(file for file in own if file.endswith(WEIGHTS) and "/" not in file)
    if others:
        has = f"it has {', '.join(others[:NAMED])}, and what is loaded is {' or '.join(loaded)}"
    else:
        has = f"its folders are: {', '.join(sorted({file.partition('/')[0] for file in files if '/' in file})) or 'none'}"
    raise ModelError(
        f"{place.path} (revision {place.revision or 'main'}): there are no weights of the {name} in "
        f"{place.subfolder or 'its top folder'}{' that can be loaded' if others else ''}; {has}. Name another "
        f"model.revision, or set model.components.{name}.path to where they are"
    )
