"""What several processes save of a state: each its part, once, and any layout reads it back to the bit."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from bare_trainers import bare_trainer
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from finetrainers.config.parallel import ParallelConfig
from finetrainers.distributed.parts import own_part, whole
from finetrainers.distributed.world import World, alone, join
from finetrainers.errors import CheckpointError
from finetrainers.optim.update import Update
from finetrainers.training.background import Background
from finetrainers.training.checkpoint import staging
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.checkpoint.state import leaves
from finetrainers.training.trainer import Trainer

SIZES = (7, 5, 2)
"""Rows that four processes have uneven parts of, and some of them none."""
MESHES: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
    "fsdp": ((4,), ("fsdp",)),
    "hsdp": ((2, 2), ("replicate", "fsdp")),
}


def trainer_of(world: World, kind: str) -> Trainer:
    """A trainer of two layers with averages; nothing but its state matters here."""
    layers = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(SIZES, SIZES[1:], strict=False)))
    if kind in MESHES:
        sizes, names = MESHES[kind]
        mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
        for layer in (*layers, layers):
            fully_shard(layer, mesh=mesh)
    update = Update(
        layers,
        dict(layers.named_parameters()),
        make_optimizer=torch.optim.AdamW,
        make_schedule=lambda made: torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1 / (step + 1)),
        clip_norm=1.0,
        ema_decay=0.9,
        world=world,
    )
    return bare_trainer(layers, update, world)


def tensors_of(trainer: Trainer) -> Mapping[str, Tensor]:
    """All tensors of the state, by name."""
    tree = {
        "model": dict(trainer.denoiser.state_dict(keep_vars=True)),
        "optimizer": trainer.update.optimizer_state()["state"],
        "ema": trainer.update.ema.shadow_params,
    }
    return {".".join(path): leaf for path, leaf in leaves(tree) if isinstance(leaf, Tensor)}


def value_of(name: str, tensor: Tensor, seed: int) -> Tensor:
    """What the whole of a tensor is to be."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=4).digest()
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(int.from_bytes(digest, "little")))


@torch.no_grad()
def filled(trainer: Trainer, step: int) -> Trainer:
    trainer.update.begin_state()
    for name, tensor in tensors_of(trainer).items():
        box, local = own_part(tensor)
        local.copy_(value_of(name, tensor, step)[box.slices_in(whole(tensor.shape))])
    trainer.step = step
    return trainer


def differing(trainer: Trainer, step: int) -> list[str]:
    """Names of the tensors that are not what ``filled`` makes of them."""
    wrong = [] if trainer.step == step else ["step"]
    for name, tensor in tensors_of(trainer).items():
        box, local = own_part(tensor)
        if not torch.equal(local, value_of(name, tensor, step)[box.slices_in(whole(tensor.shape))]):
            wrong.append(name)
    return wrong


def save_and_restore(root: Path) -> dict[str, Any]:
    """In each of four processes: save with one layout and restore with others; then one of them has no room."""
    said: dict[str, Any] = {}
    with join(ParallelConfig(), "cpu") as world:
        checkpoints = Checkpoints(root, keep=2, world=world)
        for step, kind in enumerate(("fsdp", "hsdp", "copies"), 1):
            checkpoints.save(filled(trainer_of(world, kind), step))
            for other in ("fsdp", "hsdp", "copies"):
                trainer = trainer_of(world, other)
                checkpoints.restore(trainer, step)
                said[f"{kind} to {other}"] = differing(trainer, step)
        if world.launch.rank == 2:
            staging.save_file = no_room
        staged = checkpoints.stage(filled(trainer_of(world, "fsdp"), 4))
        background = Background()
        background.start(lambda: checkpoints.write(staged))
        try:
            background.wait()
        except CheckpointError as error:
            said["error"] = str(error)
    return said


def no_room(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


@pytest.fixture(scope="module")
def said(root: Path) -> list[dict[str, Any]]:
    return ranks.results(save_and_restore, 4, root / "checkpoints", folder=root / "ranks")


def test_any_layout_reads_what_any_layout_saved(said: list[dict[str, Any]], root: Path) -> None:
    """Weights, states and averages, to the bit; one process too. Each number is in the files once."""
    transfers = [key for key in said[0] if " to " in key]
    assert len(transfers) == 9
    assert [(rank, key, each[key]) for rank, each in enumerate(said) for key in transfers if each[key]] == []
    for step in (2, 3):
        one = trainer_of(alone(), "one")
        Checkpoints(root / "checkpoints", keep=2).restore(one, step)
        assert differing(one, step) == []
        files = list((root / f"checkpoints/step-{step:06d}").glob("state-rank-*.safetensors"))
        num_bytes = sum(tensor.nbytes for tensor in tensors_of(one).values())
        assert num_bytes < sum(file.stat().st_size for file in files) < num_bytes + 4000 * len(files)
        assert len(files) == 4


def test_a_full_disk_of_one_process_is_one_error_of_all(said: list[dict[str, Any]], root: Path) -> None:
    errors = {each["error"] for each in said}
    assert len(errors) == 1
    assert "step-000004: the checkpoint cannot be written by process 2 ([Errno 28] No space left on device" in errors.pop()
    assert [folder.name for folder in sorted((root / "checkpoints").iterdir())] == ["step-000002", "step-000003"]


def test_a_damaged_piece_is_named_and_its_checkpoint_skipped(said: list[dict[str, Any]], root: Path) -> None:
    assert said
    file = root / "checkpoints/step-000003/state-rank-00002-00000.safetensors"
    contents = file.read_bytes()
    file.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
    with pytest.warns(UserWarning, match="step-000003 is no whole .* skipped: state-rank-00002-00000.safetensors has other"):
        assert Checkpoints(root / "checkpoints", keep=2).find("latest") == 2
    file.write_bytes(contents)


def save_and_hang(root: Path) -> None:
    """The second process never ends its part of the second checkpoint, while training would go on."""
    with join(ParallelConfig(), "cpu") as world:
        checkpoints = Checkpoints(root, keep=1, world=world)
        checkpoints.save(filled(trainer_of(world, "copies"), 1))
        if world.launch.rank == 1:
            staging.save_file = lambda *_: time.sleep(600)
        staged = checkpoints.stage(filled(trainer_of(world, "copies"), 2))
        Background().start(lambda: checkpoints.write(staged))
        time.sleep(600)


def test_a_kill_beside_training_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    processes = ranks.start(save_and_hang, 2, root, folder=tmp_path / "ranks")
    until = time.monotonic() + ranks.TIME_LIMIT
    while not list(root.glob(".step-000002.tmp/*.safetensors")):  # the first has written its part
        assert time.monotonic() < until
        time.sleep(0.02)
    for process in processes.processes:
        process.kill()
    processes.wait()
    checkpoints = Checkpoints(root, keep=1)
    assert checkpoints.find("latest") == 1
    checkpoints.save(filled(trainer_of(alone(), "one"), 2))
    assert [folder.name for folder in root.iterdir()] == ["step-000002"]
