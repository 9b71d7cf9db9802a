"""What a check asks the Hub of a model's files: nothing is downloaded, and no Hub is asked here."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

from finetrainers.config import ModelConfig
from finetrainers.models import Model, open_model
from finetrainers.models.place import Place
from finetrainers.training.check.findings import Findings
from finetrainers.training.check.hub_files import check_hub_files

DENOISER, VAE = "transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
WHOLE = [DENOISER, VAE, "text_encoder/model.safetensors", "text_encoder_2/model.safetensors"]


@pytest.fixture
def remote(tiny_flux: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model whose settings are known, and whose weights are on the Hub."""
    model = open_model(ModelConfig(path=str(tiny_flux)))
    here = type(model.pretrained).place
    monkeypatch.setattr(
        type(model.pretrained), "place", lambda own, name: replace(here(own, name), path="lab/flux", revision="v2")
    )
    monkeypatch.setattr(Place, "is_local", property(lambda place: place.path != "lab/flux"))
    monkeypatch.setattr(type(model.pretrained), "has_weights", lambda own, name: not name.startswith("tokenizer"))
    return model


def found(model: Model, lister: Callable[[str, str | None], Collection[str]]) -> Findings:
    findings = Findings()
    check_hub_files(model, findings, lister=lister)
    return findings


def test_each_repository_is_asked_once_and_a_whole_one_is_no_error(remote: Model) -> None:
    asked = []

    def lister(repo: str, revision: str | None) -> list[str]:
        asked.append((repo, revision))
        return WHOLE

    assert found(remote, lister).errors == []
    assert asked == [("lab/flux", "v2")]


def test_a_missing_denoiser_is_named_with_what_is_there(remote: Model) -> None:
    (error,) = found(remote, lambda *_: [name for name in WHOLE if name != DENOISER]).errors
    assert error.startswith("lab/flux (revision v2): there are no weights of the transformer in transformer; its folders")
    assert error.endswith("set model.components.transformer.path to where they are")


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"])
def test_a_denoiser_in_files_that_train_does_not_load_is_refused(remote: Model, name: str) -> None:
    (error,) = found(remote, lambda *_: [*WHOLE[1:], f"transformer/{name}"]).errors
    assert f"in transformer that can be loaded; it has {name}, and what is loaded is diffusion_pytorch_model." in error


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "diffusion_pytorch_model.safetensors"])
def test_a_text_encoder_is_asked_for_the_names_of_its_own_library(remote: Model, name: str) -> None:
    (error,) = found(remote, lambda *_: [*WHOLE[:2], f"text_encoder/{name}", WHOLE[3]]).errors
    assert "no weights of the text_encoder in text_encoder that can be loaded" in error


@pytest.mark.parametrize(
    "names",
    [
        ("transformer/diffusion_pytorch_model.safetensors.index.json", VAE, *WHOLE[2:]),
        (DENOISER, "vae/diffusion_pytorch_model.bin", *WHOLE[2:]),
        (DENOISER, VAE, "text_encoder/pytorch_model.bin.index.json", "text_encoder_2/model.safetensors.index.json"),
    ],
)
def test_weights_in_all_forms_that_are_loaded_pass(remote: Model, names: tuple[str, ...]) -> None:
    assert found(remote, lambda *_: names).errors == []


@pytest.mark.parametrize(
    "kind, way_out",
    [
        (GatedRepoError, "accept its licence at https://huggingface.co/lab/flux, and log in with `hf auth login`"),
        (RepositoryNotFoundError, "there is no such model, or it is private"),
        (RevisionNotFoundError, "there is no such revision: look at https://huggingface.co/lab/flux/tree/main"),
    ],
)
def test_what_the_hub_refuses_has_a_way_out(remote: Model, kind: type[Exception], way_out: str) -> None:
    def refuse(*_: object) -> list[str]:
        raise kind("no", response=httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co")))

    (error,) = found(remote, refuse).errors
    assert error.startswith(f"lab/flux (revision v2): {way_out}")


@pytest.mark.parametrize("error", [OfflineModeIsEnabled("offline mode"), httpx.ConnectTimeout("timed out")])
def test_without_the_hub_nobody_has_looked_and_that_is_said(remote: Model, error: Exception) -> None:
    def refuse(*_: object) -> list[str]:
        raise error

    findings = found(remote, refuse)
    assert findings.errors == []
    assert findings.left_out[1:] == [f"the list of files of lab/flux on the Hub, which does not answer ({error})"]


def test_a_model_of_this_machine_asks_nobody(tiny_flux: Path) -> None:
    findings = found(open_model(ModelConfig(path=str(tiny_flux))), lambda *_: pytest.fail("the Hub is asked"))
    assert (findings.errors, findings.left_out) == ([], [])
