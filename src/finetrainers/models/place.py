"""Where a component of a pipeline is, locally or on the Hub, and its files."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from finetrainers.errors import ModelError


def about_hub(error: Exception, path: str) -> str:
    """Say in one line why the Hub gave nothing, and the way out."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return f"accept its licence at https://huggingface.co/{path}, and log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such model, or it is private: look at its name, and log in with `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        branches = f"https://huggingface.co/{path}/tree/main"
        return f"there is no such revision: look at {branches} for its branches, and set model.revision to one, or remove it"
    if isinstance(error, LocalEntryNotFoundError):
        return "the Hub cannot be reached, and the file is not in its cache: connect, or give the folder of a copy"
    return " ".join(str(error).split())


@dataclass(frozen=True, slots=True)
class Place:
    """Where one component is."""

    path: str
    """Local folder or Hub id."""
    revision: str | None
    subfolder: str
    """Empty if the component is at the top."""
    dtype: torch.dtype

    @property
    def is_local(self) -> bool:
        return Path(self.path).is_dir()

    def file(self, name: str) -> Path:
        """Find a file of the component, downloading it if it is on the Hub.

        Raises:
            ModelError: If it is not there.
        """
        if self.is_local:
            found = Path(self.path) / self.subfolder / name
            if not found.is_file():
                raise ModelError(
                    f"{self.path}: has no {Path(self.subfolder) / name}; is this a pipeline in diffusers layout?"
                )
            return found
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.path):
            seen_from = "" if Path(self.path).is_absolute() else f" (from {Path.cwd()})"
            raise ModelError(
                f"model path {self.path!r} is neither a folder that exists{seen_from} nor a Hub id such as user/name"
            )
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.path, name, subfolder=self.subfolder or None, revision=self.revision))
        except (OSError, ValueError) as error:  # all of huggingface_hub's errors are one of these
            raise ModelError(
                f"{self.path} (revision {self.revision or 'main'}): cannot download {name}: {about_hub(error, self.path)}"
            ) from error

    def find(self, name: str) -> Path | None:
        """Find a file of the component that it may lack."""
        try:
            return self.file(name)
        except ModelError:
            return None
