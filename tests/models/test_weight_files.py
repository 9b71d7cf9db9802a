"""Which files of a network are read: those that its library would read."""

import json
from pathlib import Path

import pytest
import torch

from finetrainers.errors import ModelError
from finetrainers.models.place import Place
from finetrainers.models.weight_files import DIFFUSERS_FILE, TRANSFORMERS_FILE, index_name, network_files

PARTS = ["a.safetensors", "b.safetensors"]


def place_of(folder: Path, *names: str) -> Place:
    """A component that has files of these names, and what an index would name."""
    (folder / "own").mkdir()
    for name in (*names, *PARTS):
        content = {"weight_map": {"x": PARTS[1], "y": PARTS[0]}} if name.endswith(".json") else {}
        (folder / "own" / name).write_text(json.dumps(content))
    return Place(str(folder), None, "own", torch.float32)


@pytest.mark.parametrize(
    ("library", "file", "both"),
    [("diffusers", DIFFUSERS_FILE, PARTS), ("transformers", TRANSFORMERS_FILE, [TRANSFORMERS_FILE])],
)
def test_of_a_whole_file_and_an_index_the_one_that_the_library_looks_for_first_is_read(
    tmp_path: Path, library: str, file: str, both: list[str]
) -> None:
    """``test_weights.py`` sees the libraries do so."""
    for number, (there, read) in enumerate(
        (([file, index_name(file)], both), ([file], [file]), ([index_name(file)], PARTS))
    ):
        (tmp_path / str(number)).mkdir()
        found = network_files(place_of(tmp_path / str(number), *there), library)
        assert [own.name for own in found] == read


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_a_network_without_files_of_its_library_has_none(tmp_path: Path, library: str) -> None:
    (other,) = {DIFFUSERS_FILE, TRANSFORMERS_FILE} - {DIFFUSERS_FILE if library == "diffusers" else TRANSFORMERS_FILE}
    assert network_files(place_of(tmp_path, other, index_name(other)), library) == []


def test_a_part_that_an_index_names_and_that_is_not_there_is_named(tmp_path: Path) -> None:
    place = place_of(tmp_path, index_name(DIFFUSERS_FILE))
    (tmp_path / "own" / PARTS[0]).unlink()
    with pytest.raises(ModelError, match=r"has no own/a\.safetensors"):
        network_files(place, "diffusers")
