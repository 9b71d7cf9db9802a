"""The push of weights, card and samples to the Hub."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetrainers.config import Config
from finetrainers.errors import ConfigError
from finetrainers.files.whole import MANIFEST


def check_hub(config: Config) -> str:
    """Find the repository to push to, and that the token may; before anything is trained.

    Raises:
        ConfigError: If there is no token, or none that the Hub knows, or no Hub.
    """
    from huggingface_hub import HfApi

    with _hub_errors("log in with `hf auth login`, or set push_to_hub=false"):
        found = HfApi().whoami()
    repo = config.hub_repo or f"{found['name']}/{config.output_dir.name}"
    check_repo(repo, key="output_dir" if config.hub_repo is None else "hub_repo")
    _check_rights(found)
    return repo


def check_repo(repo: str, *, key: str) -> None:
    """Refuse what cannot be the name of a repository.

    Raises:
        ConfigError: Naming the key.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{key}: {repo!r} cannot be the name of a Hub repository: {error}; set hub_repo") from None


def _check_rights(found: Mapping[str, Any]) -> None:
    """Refuse a token that may read alone, as far as the Hub tells.

    Raises:
        ConfigError: Naming the way out.
    """
    if found.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise ConfigError(
            "push_to_hub: the token may read the Hub, and not write to it; log in with one that may (`hf auth login`), or "
            "set push_to_hub=false"
        )


@contextmanager
def _hub_errors(way_out: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of the Hub's client, or of whichever HTTP library it uses in this version
        raise ConfigError(f"push_to_hub: the Hub refused or cannot be reached: {error}\nThe way out: {way_out}") from error


def push(repo: str, directory: Path, *, private: bool) -> str:
    """Push weights with the card and the samples beside them; return the address of the commit.

    Raises:
        ConfigError: If the Hub refuses them.
    """
    with _hub_errors(f"the weights are in {directory}; push them with `hf upload {repo} {directory}`"):
        return _push(repo, directory, private=private)


def _push(repo: str, directory: Path, *, private: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    ignored = [MANIFEST, "*.tmp"]  # the first vouches for this disk, and knows nothing of the card; a kill left the others
    commit = api.upload_folder(
        repo_id=repo, folder_path=directory, commit_message="Weights from finetrainers", ignore_patterns=ignored
    )
    return str(commit.commit_url)
