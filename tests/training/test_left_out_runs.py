"""Media that break only when they are decoded, in runs that skip them: the same samples, whenever it is found."""

import errno
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures
from test_training import stop_after

import finetrainers.encoding.decoding as encoding
import finetrainers.encoding.encoder as encoder
from finetrainers import DataError, Interrupted, encode, train
from finetrainers.data.cache.store import Cache
from finetrainers.data.media.files import probe

STEPS = 10
LOSSES = ("loss", "grad_norm")


@pytest.fixture
def tree(tiny_flux: Path, tmp_path: Path) -> Tree:
    """Six pictures, one sample a step; a run may skip what is bad."""
    data = write_pictures(tmp_path / "data", 6, size=(96, 96))
    single = {"steps": STEPS, "batch_size": 1, "micro_batch_size": 1}
    tree = flux_tree(tiny_flux, data, tmp_path, train=single)
    skipping = {"on_error": "skip", "resize": "random_crop", "views": 2}
    return merged(tree, {"data": [{**tree["data"][0], **skipping}]})


def run_of(tree: Tree, name: str, **sections: Any) -> Path:
    """Train in a folder and with a cache of its own."""
    root = Path(tree["output_dir"]).parent
    own = {"output_dir": str(root / name), "cache": {"path": str(root / f"{name}-cache")}}
    train(config_of(merged(merged(tree, own), sections)))
    return root / name


@pytest.fixture
def limit(tree: Tree, tmp_path: Path) -> float:
    """cache.max_gb that holds a few of the twelve views."""
    encode(
        config_of(merged(tree, {"output_dir": str(tmp_path / "sizes"), "cache": {"path": str(tmp_path / "sizes-cache")}}))
    )
    return 0.5 * sum(entry.bytes for entry in Cache(tmp_path / "sizes-cache").entries()) / 1e9


def broken(is_broken: Callable[[Path, Any], bool]) -> Any:
    """Decode as ever, but for what is broken."""
    decode = encoding.decode

    def decoded(path: Path, view: Any) -> Any:
        if is_broken(path, view):
            raise DataError(f"{path}: breaks in the middle")
        return decode(path, view)

    return decoded


AGAIN = "and again"


def is_bad(path: Path, view: Any) -> bool:
    """One picture in all its views, one in the lower ones only, as damage in the middle of a clip may be."""
    return Path(path).name == "01.png" or (Path(path).name == "04.png" and view.crop[0] > 0.3)


def shown(output_dir: Path) -> list[str]:
    """Media that a run has left out, by the journal."""
    items = json.loads((output_dir / "left_out.json").read_text())["left_out"]
    return sorted({Path(item["path"]).name for item in items})


def test_the_samples_are_the_same_whenever_damage_is_found(
    tree: Tree, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known before the first step; found in later windows; interrupted and resumed; with steps added: bit for bit."""
    monkeypatch.setattr(encoding, "decode", broken(is_bad))
    whole = run_of(tree, "whole")
    assert shown(whole) == ["01.png", "04.png"]
    small = {"cache": {"max_gb": limit}}
    windowed = run_of(tree, "windowed", **small)
    assert curve(windowed, *LOSSES) == curve(whole, *LOSSES)
    assert any("stand in for" in e["message"] for e in events_of(windowed) if e["event"] == "warning")
    for stop in (2, 6):
        with monkeypatch.context() as patch:
            patch.setattr("finetrainers.training.run.StepLog.__call__", stop_after(stop))
            with pytest.raises(Interrupted):
                run_of(tree, f"stopped-{stop}", **small)
        assert curve(run_of(tree, f"stopped-{stop}", **small), *LOSSES) == curve(whole, *LOSSES)
    for sections in ({}, small):
        run_of(tree, f"grown-{len(sections)}", train={"steps": 3}, **sections)
        grown = run_of(tree, f"grown-{len(sections)}", train={"steps": STEPS}, **sections)
        assert curve(grown, *LOSSES) == curve(whole, *LOSSES)


def test_a_hiccup_of_the_disk_is_remembered_by_the_run_and_by_no_other(
    tree: Tree, limit: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was read once cannot be when it is needed again: from there on it is left out, also after a resume."""
    read: list[Any] = []
    decode = encoding.decode

    def failing_once(path: Path, view: Any) -> Any:
        if (path, view) in read and AGAIN not in read:  # the first that is read again
            read.append(AGAIN)
            raise OSError(errno.EIO, "Input/output error")
        read.append((path, view))
        return decode(path, view)

    small = {"cache": {"max_gb": limit}, "train": {"steps": 16}, "checkpoint": {"every": 1, "keep": 50}}
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "decode", failing_once)
        whole = run_of(tree, "whole", **small)
    (item,) = json.loads((whole / "left_out.json").read_text())["left_out"]
    assert item["reason"] == "cannot be read: Input/output error"
    assert 1 < item["since"] < 15
    report = json.loads((whole / "report.json").read_text())
    assert [sample["path"] for sample in report["bad_samples"]] == [item["path"]]
    before = curve(whole, *LOSSES)
    for back in (item["since"] - 1, item["since"] + 1):  # before the hiccup, and behind it
        run_of(tree, "whole", **merged(small, {"checkpoint": {"resume": back}}))
        assert curve(whole, *LOSSES) == before
    (whole / "left_out.json").unlink()
    run_of(tree, "whole", **merged(small, {"checkpoint": {"resume": item["since"] - 1}}))
    assert curve(whole, *LOSSES) == curve(run_of(tree, "unharmed", **small), *LOSSES) != before


def test_what_one_model_cannot_encode_is_tried_again_by_another(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An overflow in bfloat16, and the way out that its message names, on the same cache."""
    encode_pixels = encoder.encode_pixels

    def overflowing(vae: Any, *rest: Any, **options: Any) -> Any:
        mean, std = encode_pixels(vae, *rest, **options)
        return mean.index_fill(1, torch.tensor(0), torch.inf) if vae.dtype == torch.bfloat16 else mean, std

    monkeypatch.setattr(encoder, "encode_pixels", overflowing)
    failing = {"data": [{**tree["data"][0], "on_error": "fail"}]}
    for on_error in (failing, {}):
        narrow = merged(tree, {"model": {"components": {"vae": {"dtype": "bfloat16"}}}, **on_error})
        with pytest.raises(DataError, match=r"not finite in torch\.bfloat16|no good sample is left in the bucket"):
            encode(config_of(merged(narrow, {"output_dir": str(tmp_path / f"narrow-{len(on_error)}")})))
    wide = merged(tree, {"model": {"components": {"vae": {"dtype": "float32"}}}, **failing})
    assert train(config_of(wide)).report["num_samples"] == 6


def test_what_an_older_memo_calls_bad_is_tried_again(tree: Tree) -> None:
    """Its table stays where it is, and is not read."""
    encode(config_of(tree))
    memo = sqlite3.connect(Path(tree["cache"]["path"]) / "memo.sqlite")
    with memo:
        memo.execute("CREATE TABLE IF NOT EXISTS bad (key TEXT PRIMARY KEY, reason TEXT)")
        for (digest,) in memo.execute("SELECT digest FROM media WHERE ref LIKE '%.png'").fetchall():
            memo.execute("INSERT INTO bad VALUES (?, ?)", (f"{digest.hex()}/center/None/1", "the latents were not finite"))
            memo.execute("INSERT INTO bad VALUES (?, ?)", (f"{digest.hex()}/start/None/1", "the latents were not finite"))
    memo.close()
    assert train(config_of(tree)).report["bad_samples"] == []


def test_a_new_run_in_the_folder_of_one_that_never_saved_tries_all_again(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "decode", broken(is_bad))
        encode(config_of(tree))
    assert shown(Path(tree["output_dir"])) == ["01.png", "04.png"]
    assert train(config_of(tree)).report["bad_samples"] == []


@pytest.mark.parametrize("name", ["01.png", "clip.mp4"])
def test_errors_of_the_system_are_told_from_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A file that may not be read is not called damaged."""
    from media_factory import write_counter

    write_pictures(tmp_path, 2)
    write_counter(tmp_path / "clip.mp4", 9)
    for number, reason in ((errno.EIO, "Input/output error"), (errno.ESTALE, "Stale file handle")):
        import av
        import PIL.Image

        def failing(*_: Any, number: int = number, reason: str = reason, **__: Any) -> Any:
            kind = av.error.OSError if name.endswith("mp4") else OSError
            raise kind(number, reason)

        with monkeypatch.context() as patch:
            patch.setattr(PIL.Image, "open", failing)
            patch.setattr(av, "open", failing)
            with pytest.raises(DataError, match=f"{name}: cannot be read: {reason}"):
                probe(tmp_path / name)
    for file in tmp_path.glob(name):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match="cannot be decoded|truncated|damaged"):
        probe(tmp_path / name)
