"""The state of a run on the disk: every bit and every type comes back, and what is read runs nothing."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from finetrainers.errors import CheckpointError
from finetrainers.training import state as module
from finetrainers.training.state import load_into, read_state, write_state

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
        "", "[]", '{"version": 2, "state": {"dict": {}}}', '{"version": 1}', '{"version": 1, "state": {"code": "1"}}',
        '{"version": 1, "state": {"tensor": 1, "file": "x"}}',
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


def test_a_tensor_of_which_others_have_parts_is_refused(mesh: Any, tmp_path: Path) -> None:
    part = DTensor.from_local(torch.ones(3), mesh, [Shard(0)])
    with pytest.raises(CheckpointError, match="/model/x: this process has a part of the tensor only"):
        write_state({"model": {"x": part}}, tmp_path)
    whole = DTensor.from_local(torch.ones(3), mesh, [Replicate()])
    assert torch.equal(there_and_back({"x": whole}, tmp_path)["x"], torch.ones(3))
