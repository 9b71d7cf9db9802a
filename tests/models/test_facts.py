"""The four tables of an adapter: what they refuse, and where facts are that once stood outside of them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import finetrainers
from finetrainers import LatentFacts, ModelAdapter, NoiseLevels, TrainingFacts
from finetrainers.errors import ConfigError, ModelError
from finetrainers.models.facts import MOVED, TABLES
from finetrainers.models.flux import Flux
from finetrainers.models.registry import load_adapter

FLUX = {"block_out_channels": [8, 8, 8, 8], "latent_channels": 4}, {"patch_size": 1}


@pytest.mark.parametrize("name", MOVED)
def test_a_name_outside_of_its_table_is_refused_with_the_new_place(name: str) -> None:
    table, key = MOVED[name].split(".")
    with pytest.raises(ModelError) as refused:
        type("Mine", (Flux,), {name: None})
    assert f"Mine: {name} is now {MOVED[name]};" in str(refused.value)
    assert f"{table} = {TABLES[table].__name__}({key}=...)" in str(refused.value)


def test_all_names_outside_of_their_tables_are_named_at_once() -> None:
    with pytest.raises(ModelError, match=r"shift is now training\.shift, vae_statistics is now latents\.statistics"):
        type("Mine", (ModelAdapter,), {"vae_statistics": "config", "shift": 3.0})


def test_a_name_that_a_class_beside_the_adapter_brings_is_refused() -> None:
    class Beside:
        @property
        def native_fps(self) -> float:
            return 16.0

    with pytest.raises(ModelError, match=r"native_fps is now training\.native_fps"):
        type("Mine", (Beside, Flux), {})


def test_a_name_that_an_instance_sets_is_refused() -> None:
    class Mine(Flux):
        def __init__(self, *settings: Any) -> None:
            super().__init__(*settings)
            self.max_sequence_length = 77

    with pytest.raises(ModelError, match=r"Mine: max_sequence_length is now text\.max_length"):
        Mine(*FLUX)


def test_an_instance_replaces_a_table_for_itself_alone() -> None:
    adapters = Flux(*FLUX), Flux(*FLUX)
    adapters[0].text = dataclasses.replace(adapters[0].text, max_length=77)
    assert [adapter.text.max_length for adapter in (*adapters, Flux)] == [77, 512, 512]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Flux.text.max_length = 77  # type: ignore[misc]


def test_a_users_file_with_such_a_name_is_one_message(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from finetrainers import ModelAdapter\n\n\nclass Mine(ModelAdapter):\n    has_image_vae = True\n")
    with pytest.raises(ConfigError, match=r"model\.adapter: .*mine\.py .*Mine: has_image_vae is now latents\.is_image_vae"):
        load_adapter(f"{file}:Mine")


def test_each_new_place_is_a_field_and_each_field_has_one_place() -> None:
    fields = {f"{table}.{field.name}" for table, facts in TABLES.items() for field in dataclasses.fields(facts)}
    assert set(MOVED.values()) <= fields
    assert len(set(MOVED.values())) == len(MOVED)
    assert not set(MOVED) & set(dir(ModelAdapter))


def test_a_table_takes_no_value_that_nothing_would_read() -> None:
    with pytest.raises(ModelError, match=r"latents\.statistics: 'bufers' is not known; set one of .*buffers"):
        LatentFacts(statistics="bufers")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"training\.prediction: 'V' is not known; set one of flow, v"):
        TrainingFacts(noise_levels=NoiseLevels(), prediction="V")  # type: ignore[arg-type]


def test_the_tables_are_public() -> None:
    assert {facts.__name__ for facts in TABLES.values()} <= set(finetrainers.__all__)
