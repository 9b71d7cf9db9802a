"""The state of a run on the disk: every bit and every type comes back, and what is read runs nothing."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from finetrainers.distributed.parts import Box
from finetrainers.errors import CheckpointError
from finetrainers.training.checkpoint import staging as module
from finetrainers.training.checkpoint.staging import combined, stage, write_state
from finetrainers.training.checkpoint.state import load_into, read_state

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)


def there_and_back(tree: dict[str, Any], directory: Path, into: dict[str, Any] | None = None) -> dict[str, Any]:
    write_state(tree, directory)
    return load_into({} if into is None else into, read_state(directory))


def bits(tensor: Tensor) -> list[int]:
    return tensor.contiguous().flatten().view(torch.uint8).tolist()


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_all_types_come_back_to_the_bit(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (10 * dtype.itemsize,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    values = noise % 2 == 1 if dtype == torch.bool else noise.view(dtype)  # of floats, NaN and subnormal ones among them
    tensor = values[: torch.Size(shape).numel()].reshape(shape)
    (back,) = there_and_back({"x": tensor}, tmp_path).values()
    assert (back.dtype, back.shape, bits(back)) == (dtype, tensor.shape, bits(tensor))


def test_plain_values_come_back_with_their_types(tmp_path: Path) -> None:
    values = {
        "floats": [0.1, 1 / 3, 5e-324, -0.0, float("inf"), 1e22],
        "betas": (0.9, 0.999),
        "nested": {"a": [(1, [2]), {"b": None}], "text": "größe – α\n", "true": True, "one": 1, "empty": {}, "none": []},
        "large": 2**70,
    }
    back = there_and_back(values, tmp_path)
    assert repr(back) == repr(values)


def test_tensors_that_share_memory_come_back_as_tensors_of_their_own(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    back = there_and_back({"a": whole, "b": whole, "tail": whole[3:], "turned": whole.reshape(2, 3).T}, tmp_path)
    back["a"].zero_()
    assert back["b"].tolist() == whole.tolist()
    assert back["tail"].tolist() == [3, 4, 5]
    assert back["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_tensors_are_read_into_those_that_are_there(tmp_path: Path) -> None:
    """On the device of a large model there is no room for a second copy; but one of another form is not cut to fit."""
    own = {"same": torch.zeros(3), "other": torch.zeros(()), "type": torch.zeros(3, dtype=torch.bfloat16)}
    saved = {"same": torch.arange(3.0), "other": torch.arange(4.0), "type": torch.tensor([0.1, 0.2, 0.3])}
    back = there_and_back(saved, tmp_path, own)
    assert back["same"] is own["same"]
    assert all(torch.equal(back[name], saved[name]) and back[name].dtype == saved[name].dtype for name in saved)


def test_a_tensor_that_is_there_twice_is_overwritten_once(tmp_path: Path) -> None:
    shared = torch.zeros(2)
    back = there_and_back({"a": torch.ones(2), "b": torch.full((2,), 2.0)}, tmp_path, {"a": shared, "b": shared})
    assert [back["a"].tolist(), back["b"].tolist()] == [[1, 1], [2, 2]]


def test_large_states_are_cut_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 100)
    tree = {str(n): torch.full((10,), float(n)) for n in range(7)}
    back = there_and_back(tree, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    assert all(torch.equal(back[name], tree[name]) for name in tree)


@pytest.mark.parametrize("value", [object(), {1: 2}, {1, 2}, 1j], ids=lambda value: type(value).__name__)
def test_what_no_file_can_hold_is_an_error(value: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="/a/0: .* cannot be saved"):
        write_state({"a": [value]}, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", '{"version": 3, "state": {"dict": {}}}', '{"version": 1}', '{"version": 1, "state": {"code": "1"}}',
        '{"version": 1, "state": {"tensor": 1, "file": "x"}}',
        '{"version": 2, "pieces": {"/x": [[0, [0], [1]]]}, "state": {"tensor": "/x", "shape": [1], "dtype": "torch.int8"}}',
    ],
)  # fmt: skip
def test_what_is_no_state_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match="the checkpoint"):
        read_state(tmp_path)


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A mesh of this process alone."""
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setitem(os.environ, name, value)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_a_part_is_not_taken_for_the_whole(mesh: Any, tmp_path: Path) -> None:
    part = DTensor.from_local(torch.ones(3), mesh, [Shard(0)], shape=torch.Size([3]), stride=(1,))
    state = stage({"model": {"x": part}})
    report = state.write(tmp_path)
    state.sizes["/model/x"] = 7  # of which other processes should have told
    with pytest.raises(CheckpointError, match="/model/x: the processes have 3 of its 7 numbers"):
        combined(state, [report])
    with pytest.raises(CheckpointError, match="/x: a tensor that is spread over processes as Partial has no parts"):
        stage({"x": DTensor.from_local(torch.ones(3), mesh, [Partial()])})
    whole = DTensor.from_local(torch.ones(3), mesh, [Replicate()])
    assert torch.equal(there_and_back({"x": whole}, tmp_path)["x"], torch.ones(3))


def test_a_checkpoint_of_version_1_is_read(tmp_path: Path) -> None:
    save_file({"/x": torch.arange(6.0).view(2, 3)}, tmp_path / "state-00000.safetensors")
    leaf = {"tensor": "/x", "file": "state-00000.safetensors", "shape": [2, 3], "dtype": "torch.float32"}
    (tmp_path / "state.json").write_text(json.dumps({"version": 1, "state": {"dict": {"x": leaf, "betas": {"tuple": [1]}}}}))
    back = load_into({"x": torch.zeros(2, 3)}, read_state(tmp_path))
    assert back["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert back["betas"] == (1,)


@pytest.mark.parametrize("box", [((0, 0), (5, 3)), ((1, 0), (3, 3)), ((2, 1), (1, 2)), ((4, 2), (0, 1))], ids=str)
def test_any_box_is_read_from_the_pieces_that_have_some_of_it(box: tuple[Any, Any], tmp_path: Path) -> None:
    whole, pieces = torch.arange(15.0).view(5, 3), {}
    for number, (at, size) in enumerate([((0, 0), (2, 2)), ((0, 2), (2, 1)), ((2, 0), (3, 3))]):
        save_file({"/x": whole[Box(at, size).slices_in(Box((0, 0), (5, 3)))].contiguous()}, tmp_path / str(number))
        pieces[number] = [number, at, size]
    leaf = {"tensor": "/x", "shape": [5, 3], "dtype": "torch.float32"}
    tree = {"version": 2, "files": ["0", "1", "2"], "pieces": {"/x": [*pieces.values()]}, "state": {"dict": {"x": leaf}}}
    (tmp_path / "state.json").write_text(json.dumps(tree))
    saved = read_state(tmp_path)["x"]
    assert torch.equal(saved.read(Box(*box)), whole[Box(*box).slices_in(Box((0, 0), (5, 3)))])
    with pytest.raises(ValueError, match="/x: 6 of 15 numbers are in none of the files"):
        replace(saved, pieces=saved.pieces[-1:]).read()
