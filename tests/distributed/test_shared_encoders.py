"""Text encoders whose weights several processes hold together encode what one process does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import ranks
import torch
from private_memory import IS_KNOWN, Peak
from runs import config_of, flux_tree, merged, write_pictures
from torch import nn
from transformers import T5Config, T5EncoderModel

from finetrainers import encode
from finetrainers.config import ModelConfig, dump_config
from finetrainers.config.parallel import ParallelConfig
from finetrainers.data.cache.store import Cache
from finetrainers.distributed.parallelize import local_of
from finetrainers.distributed.world import join
from finetrainers.errors import ModelError
from finetrainers.memory.residency import Residency
from finetrainers.memory.shard_encoders import load_shared, sharers_of
from finetrainers.memory.waiting import to_device, wait_in_files
from finetrainers.models import open_model
from finetrainers.models.pretrained import Pretrained

FAMILIES = (
    ("flux", "dev"),
    ("ltx_video", "0.9.0"),
    ("wan", "2.1-t2v"),
    ("hunyuan_video", "t2v"),
    ("hunyuan_video", "i2v"),
    ("cogvideox", "2b"),
    ("cogview4", "6b"),
)
CPU = torch.device("cpu")
NAME = "text_encoder"
LARGE_INDEX = {NAME: ["transformers", "T5EncoderModel"]}
MOST_OF_A_HALF = 0.6
"""Of the weights, in each of two processes: small ones that do not divide are padded."""


def encode_shared(folders: list[Path]) -> list[tuple[float, float]]:
    """For each model: the largest difference to what whole encoders encode, and the part of their bytes that is here."""
    picture = PIL.Image.new("RGB", (64, 64), "red")
    with join(ParallelConfig(), "cpu") as world:
        found = []
        for folder in folders:
            model = open_model(ModelConfig(path=str(folder), dtype="float32", max_sequence_length=16))
            captions = [f"caption of process {world.name}"]  # another one in each: they share the weights, not the work
            texts, parts = [], []
            for residency in (Residency(model, CPU), Residency(model, CPU, shares=lambda: sharers_of(world))):
                with residency.alone(*model.text_components) as components, torch.no_grad():
                    weights = [w for m in components.values() if isinstance(m, torch.nn.Module) for w in m.parameters()]
                    pipeline = model.pretrained.pipeline(model.pipeline_class, components)
                    texts.append(model.encode_text(pipeline, captions, [picture], device=CPU))
                    own = sum((w.to_local() if residency.shares_encoders else w).nbytes for w in weights)
                    parts.append(own / sum(w.nbytes for w in weights))
                assert not residency.on_device  # and nothing of them stays
            whole, shared = texts
            assert whole.keys() == shared.keys()
            found.append((max(float((whole[name].float() - shared[name].float()).abs().max()) for name in whole), parts[1]))
    return found


@pytest.mark.distributed
def test_encoders_of_all_families_can_be_shared(tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    folders = [tiny(family, variant) for family, variant in FAMILIES]
    for found in ranks.results(encode_shared, 2, folders, folder=tmp_path / "ranks"):
        for (family, _), (difference, part) in zip(FAMILIES, found, strict=True):
            assert difference <= 1e-5, family
            assert part < MOST_OF_A_HALF, family


def load_large(folder: Path) -> tuple[bool, float, int, float]:
    """Share an encoder that is read in another type: whether this process read, its peak, its bytes of the weights.

    And the peak of one that is whole in each process, on a device that is not the host: that of meta has no memory.
    """
    pretrained, loads = Pretrained(ModelConfig(path=str(folder), dtype="bfloat16"), LARGE_INDEX), list[str]()
    pretrained.load_empty(NAME)  # imports what it needs
    with join(ParallelConfig(), "cpu") as world:
        sharers = sharers_of(world)

        def load() -> nn.Module:
            loads.append(NAME)
            network: nn.Module = pretrained.load_stored(NAME).network
            return network

        with Peak() as peak:
            encoder = load_shared(load, pretrained.load_empty(NAME), sharers)
        with pytest.raises(ModelError, match="has gone"):  # in each process
            load_shared(gone, pretrained.load_empty(NAME), sharers)
        with Peak() as of_whole:
            stored = pretrained.load_stored(NAME)
            to_device(wait_in_files(stored), dict(stored.mapped), torch.device("meta"), stored.mapped)
        return bool(loads), peak.mib, sum(local_of(own).nbytes for own in encoder.parameters()), of_whole.mib


def gone() -> nn.Module:
    raise ModelError("the file has gone")


@pytest.mark.distributed
@pytest.mark.skipif(not IS_KNOWN, reason="Linux says how much memory is private")
def test_one_process_of_a_host_reads_an_encoder_that_all_share(tmp_path: Path) -> None:
    """The others hold their parts and one layer, whatever type the files have."""
    config = T5Config(vocab_size=8000, d_model=512, num_heads=8, d_kv=64, d_ff=2048, num_layers=10)
    encoder = T5EncoderModel(config)
    encoder.save_pretrained(tmp_path / NAME)
    whole = 2 * encoder.num_parameters() / 2**20
    for count in (2, 4):
        found = ranks.results(load_large, count, tmp_path, folder=tmp_path / f"{count} ranks")
        print(f"{whole:.0f} MiB; who read, its peak, bytes of its part, peak of a whole one:", found)
        assert [is_read for is_read, *_ in found] == [True] + [False] * (count - 1)
        for _, peak, part, of_whole in found:
            assert part / 2**20 < MOST_OF_A_HALF * 2 / count * whole
            assert peak < part / 2**20 + 0.5 * whole
            assert of_whole < 0.1 * whole
    with Peak() as own:  # what has the type of its files stays in them, and these are in memory once
        mapped = Pretrained(ModelConfig(path=str(tmp_path), dtype="float32"), LARGE_INDEX).load(NAME)
    assert own.mib < 0.2 * sum(weight.nbytes for weight in mapped.parameters()) / 2**20


def test_captions_are_encoded_in_step_as_one_process_does(tiny_flux: Path, tmp_path: Path) -> None:
    """Five captions on two processes: one of them has one less, and asks as often."""
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "data", 5), tmp_path, memory={"shard_text_encoders": True})
    one: dict[str, Any] = {"memory": {"shard_text_encoders": False}, "cache": {"path": str(tmp_path / "own")}}
    encode(config_of(merged(tree, {**one, "output_dir": str(tmp_path / "one")})))
    file = tmp_path / "two.yaml"
    file.write_text(dump_config(config_of(tree)))
    assert ranks.results(ranks.command, 2, "encode", str(file), folder=tmp_path / "ranks") == [0, 0]
    entries = list(Cache(tmp_path / "own").entries())
    assert len(entries) == 10
    for entry in entries:
        tensors, shared = (Cache(tmp_path / name).read(entry.kind, entry.key)[0] for name in ("own", "cache"))
        for name, tensor in tensors.items():
            torch.testing.assert_close(shared[name], tensor, rtol=0, atol=1e-5)


def test_one_process_has_nobody_to_share_encoders_with(
    tiny_flux: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "data", 2), tmp_path, memory={"shard_text_encoders": True})
    file = tmp_path / "one.yaml"
    file.write_text(dump_config(config_of(tree)))
    assert ranks.command("encode", str(file)) == 2
    assert "memory.shard_text_encoders: true has no effect in one process" in capsys.readouterr().err
