"""Whether the Hub has the weights of a model: its lists of files are asked for, and nothing of them is downloaded."""

from collections.abc import Callable, Collection

from finetrainers.errors import ModelError
from finetrainers.models import Model
from finetrainers.models.pretrained import Place, about_hub
from finetrainers.training.check.findings import Findings

SECONDS = 10.0
"""In which the Hub has to answer."""
WEIGHTS = (".safetensors", ".bin")

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
            _check_weights(name, place, found)


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


def _check_weights(name: str, place: Place, files: Collection[str]) -> None:
    """Refuse a component without a file of weights.

    Raises:
        ModelError: Naming the folder.
    """
    folder = f"{place.subfolder}/" if place.subfolder else ""
    if not any(file.startswith(folder) and file.endswith(WEIGHTS) for file in files):
        has = ", ".join(sorted({file.partition("/")[0] for file in files if "/" in file})) or "none"
        raise ModelError(
            f"{place.path} (revision {place.revision or 'main'}): there are no weights of the {name} in "
            f"{place.subfolder or 'its top folder'}; its folders are: {has}. Name another model.revision, or set "
            f"model.components.{name}.path to where they are"
        )
