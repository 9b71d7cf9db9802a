"""The encoding stage: nothing twice, nothing stale, nothing dropped in silence."""

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures

from finetrainers import ConfigError, DataError, encode, train
from finetrainers.data.cache import writing
from finetrainers.data.cache.claims import Claims
from finetrainers.data.cache.item import without_zeros
from finetrainers.data.cache.store import Cache, make_key
from finetrainers.data.media.blob import LocalFile
from finetrainers.data.order.jobs import SampleJob, TextJob
from finetrainers.data.order.lazy import Lazy
from finetrainers.data.order.order import Group, Order
from finetrainers.distributed.board import Place
from finetrainers.encoding import encoder as encoding_stage
from finetrainers.encoding.budget import Budget
from finetrainers.encoding.shares import Progress, Share
from finetrainers.models.pretrained import Pretrained


@pytest.fixture
def tree(tiny_flux: Path, tmp_path: Path) -> Tree:
    return flux_tree(tiny_flux, write_pictures(tmp_path / "data", 4), tmp_path)


class Counts:
    """What a run did: components loaded, captions and pictures encoded, media files opened."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.captions: list[str] = []
        self.decoded: list[str] = []
        self.probed: list[str] = []


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    counts = Counts()
    load, load_denoiser, write = Pretrained.load, Pretrained.load_denoiser, Cache.write

    def counting_load(self: Pretrained, component: str) -> Any:
        counts.loaded.append(component)
        return load(self, component)

    def counting_load_denoiser(self: Pretrained, component: str, *rest: Any, **options: Any) -> Any:
        counts.loaded.append(component)
        return load_denoiser(self, component, *rest, **options)

    def counted(function: Any, names: list[str]) -> Any:
        def call(path: Any, *rest: Any) -> Any:
            names.append(Path(str(path)).name)
            return function(path, *rest)

        return call

    def counting_write(self: Cache, kind: Any, key: str, *rest: Any) -> int:
        if kind == "text":
            counts.captions.append(key)
        return write(self, kind, key, *rest)

    import finetrainers.data.catalog.probe as look
    import finetrainers.encoding.decoding as encoding

    with monkeypatch.context() as patch:
        patch.setattr(Pretrained, "load", counting_load)
        patch.setattr(Pretrained, "load_denoiser", counting_load_denoiser)
        patch.setattr(Cache, "write", counting_write)
        patch.setattr(encoding, "decode", counted(encoding.decode, counts.decoded))
        patch.setattr(look, "probe", counted(look.probe, counts.probed))
        yield counts


def again(tree: Tree, name: str, **sections: Any) -> Tree:
    return merged(tree, {"output_dir": str(Path(tree["output_dir"]).with_name(name)), **sections})


def test_an_edited_adapter_of_ones_own_encodes_anew(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    code = "from finetrainers.models.flux import Flux\n\n\nclass Mine(Flux):\n    pass\n"
    mine = merged(tree, {"model": {"adapter": "~/mine.py:Mine"}})
    decoded = []
    for text in (code, code, f"{code}# edited\n"):
        (tmp_path / "mine.py").write_text(text)
        with counted(monkeypatch) as counts:
            encode(config_of(mine))
        decoded.append(len(counts.decoded))
    assert decoded == [4, 0, 4]


def test_each_item_is_encoded_once(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch) as counts:
        encode(config_of(tree))
    assert sorted(counts.decoded) == ["00.png", "01.png", "02.png", "03.png"]
    assert len(set(counts.captions)) == len(counts.captions) == 4
    assert "transformer" not in counts.loaded
    assert counts.loaded.index("vae") > counts.loaded.index("text_encoder_2")  # one group after the other


def test_a_second_run_opens_no_media_and_loads_no_encoder(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other learning rate, same data."""
    train(config_of(tree))

    def opened(self: LocalFile) -> Any:
        pytest.fail(f"{self} is opened")

    with counted(monkeypatch) as counts, monkeypatch.context() as patch:
        patch.setattr(LocalFile, "open", opened)
        train(config_of(again(tree, "second", optimizer={"lr": 1e-4}, train={"batch_size": 2, "micro_batch_size": 2})))
    assert (counts.probed, counts.decoded, counts.captions) == ([], [], [])
    assert set(counts.loaded) == {"transformer"}


def test_one_changed_caption_encodes_one_text_and_no_picture(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(config_of(tree))
    (Path(tree["data"][0]["path"]) / "02.txt").write_text("quite another caption")
    with counted(monkeypatch) as counts:
        encode(config_of(tree))
    assert len(counts.captions) == 1
    assert counts.decoded == counts.probed == []
    assert "vae" not in counts.loaded


def test_one_changed_picture_is_encoded_again(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(config_of(tree))
    write_pictures(Path(tree["data"][0]["path"]) / "new", 1, seed=9)
    shutil.move(Path(tree["data"][0]["path"]) / "new" / "00.png", Path(tree["data"][0]["path"]) / "02.png")
    shutil.rmtree(Path(tree["data"][0]["path"]) / "new")
    with counted(monkeypatch) as counts:
        encode(config_of(tree))
    assert counts.probed == counts.decoded == ["02.png"]
    assert counts.captions == []


def test_a_renamed_picture_is_not_encoded_again(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(config_of(tree))
    for suffix in ("png", "txt"):
        (Path(tree["data"][0]["path"]) / f"02.{suffix}").rename(Path(tree["data"][0]["path"]) / f"renamed.{suffix}")
    with counted(monkeypatch) as counts:
        encode(config_of(tree))
    assert counts.decoded == counts.captions == []


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"components": {"vae": {"dtype": "bfloat16"}}}},
        {"data": [{"path": "", "buckets": [[1, 48, 64]]}]},
        {"memory": {"vae_tiling": True}},
    ],
    ids=["VAE's data type", "bucket", "tiling"],
)
def test_what_changes_the_latents_changes_their_key(tree: Tree, monkeypatch: pytest.MonkeyPatch, change: Tree) -> None:
    encode(config_of(tree))
    if "data" in change:
        change = {"data": [{**change["data"][0], "path": tree["data"][0]["path"]}]}
    with counted(monkeypatch) as counts:
        encode(config_of(again(tree, "other", **change)))
    assert len(counts.decoded) == 4
    assert counts.captions == []


def test_other_weights_of_an_encoder_change_the_keys(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is keyed by path alone would go stale when the model behind the path changes."""
    model = Path(shutil.copytree(tree["model"]["path"], tmp_path / "model"))
    encode(config_of(again(tree, "one", model={"path": str(model)})))
    weights = next((model / "vae").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with counted(monkeypatch) as counts:
        encode(config_of(again(tree, "two", model={"path": str(model)})))
    assert len(counts.decoded) == 4
    assert counts.captions == []


def test_encoded_bits_do_not_depend_on_what_else_was_missing(tree: Tree, tmp_path: Path) -> None:
    """All at once, or the rest after an interruption: the same contents of every file."""
    caches = [tmp_path / "whole", tmp_path / "resumed"]
    for cache in caches:
        encode(config_of(again(tree, cache.name + "-run", cache={"path": str(cache)})))
    for kind in ("latents", "text"):
        first = sorted((caches[1] / kind).rglob("*.safetensors"))
        for file in first[::2]:
            file.unlink()
    encode(config_of(again(tree, "resumed-run", cache={"path": str(caches[1])})))
    digests = [{e.key: cache.read(e.kind, e.key)[1]["digest"] for e in cache.entries()} for cache in map(Cache, caches)]
    assert len(digests[0]) == 8
    assert digests[0] == digests[1]


def test_batches_encode_what_single_items_do(tree: Tree, tmp_path: Path) -> None:
    """But for rounding: no item of a batch sees another."""
    items = []
    for batch_size in (1, 3):
        root = tmp_path / str(batch_size)
        encode(config_of(again(tree, f"run-{batch_size}", cache={"path": str(root), "batch_size": batch_size})))
        cache = Cache(root)
        items.append({entry.key: cache.read(entry.kind, entry.key)[0] for entry in cache.entries()})
    assert items[0].keys() == items[1].keys()
    for key, tensors in items[0].items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(items[1][key][name], tensor, rtol=1e-4, atol=1e-5)


def test_cached_latents_are_those_of_the_vae(tree: Tree, tiny_flux: Path) -> None:
    from diffusers import AutoencoderKL

    encode(config_of(tree))
    file = Path(tree["data"][0]["path"]) / "01.png"
    pixels = torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8).view(1, 64, 64, 3)
    vae = AutoencoderKL.from_pretrained(tiny_flux / "vae")
    with torch.no_grad():
        posterior = vae.encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist
    mean = (posterior.mean - vae.config.shift_factor) * vae.config.scaling_factor
    std = posterior.std * vae.config.scaling_factor
    cache = Cache(Path(tree["cache"]["path"]))
    found = [cache.read("latents", entry.key)[0] for entry in cache.entries() if entry.kind == "latents"]
    distance = [float((item["mean"][:, 0] - mean[0]).abs().max()) for item in found]
    assert min(distance) < 1e-5
    assert sorted(distance)[1] > 0.1
    torch.testing.assert_close(found[distance.index(min(distance))]["std"][:, 0], std[0])


def test_captions_that_are_cut_are_warned_of(tree: Tree) -> None:
    """Not in silence: the denoiser sees only so many tokens."""
    for number, words in ((0, 40), (1, 3)):
        (Path(tree["data"][0]["path"]) / f"{number:02d}.txt").write_text(" ".join(["dog"] * words))
    encode(config_of(tree))
    warnings = [e["message"] for e in events_of(tree["output_dir"]) if e["event"] == "warning"]
    cut = [m for m in warnings if "longer than model.max_sequence_length (16 tokens)" in m]
    assert len(cut) == 1
    assert "'dog dog" in cut[0]


def test_caption_dropout_trains_on_empty_captions(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = merged(tree, {"data": [{**tree["data"][0], "caption_dropout": 1.0, "caption_prefix": "TOKEN"}]})
    with counted(monkeypatch) as counts:
        encode(config_of(dropped))
    assert len(counts.captions) == 1


def bad_data(directory: Path) -> set[str]:
    """Two good pictures among the broken inputs of the issue; return the names of the broken ones."""
    write_pictures(directory, 2)
    from media_factory import write_counter

    write_counter(directory / "cut.mp4", 9)
    (directory / "cut.mp4").write_bytes((directory / "cut.mp4").read_bytes()[:-500])
    (directory / "zero.png").write_bytes(b"")
    (directory / "words.jpg").write_text("this is no picture")
    Image.new("RGB", (1, 1)).save(directory / "dot.png")
    Image.new("RGB", (64, 64), "red").save(directory / "uncaptioned.png")
    Image.new("RGB", (64, 64), "blue").save(directory / "empty.png")
    Image.new("RGB", (64, 64), "green").save(directory / "ein schönes Bild.png")
    for name in ("cut", "zero", "words", "dot", "ein schönes Bild"):
        (directory / f"{name}.txt").write_text(f"caption of {name}", encoding="utf-8")
    (directory / "empty.txt").write_text(" \n")
    return {"cut.mp4", "zero.png", "words.jpg", "dot.png", "uncaptioned.png", "empty.png"}


def test_all_broken_inputs_are_listed_at_once_before_training(tree: Tree, tmp_path: Path) -> None:
    bad = bad_data(tmp_path / "bad")
    with pytest.raises(DataError, match=f"{len(bad)} bad samples") as error:
        train(config_of(merged(tree, {"data": [{"path": str(tmp_path / "bad"), "buckets": [[1, 64, 64]]}]})))
    assert all(name in str(error.value) for name in bad)
    assert "schönes" not in str(error.value)
    assert not any(event["event"] == "step" for event in events_of(tree["output_dir"]))


def test_broken_inputs_can_be_skipped_and_are_named_in_the_report(tree: Tree, tmp_path: Path) -> None:
    bad = bad_data(tmp_path / "bad")
    data = [{"path": str(tmp_path / "bad"), "buckets": [[1, 64, 64]], "on_error": "skip"}]
    result = train(config_of(merged(tree, {"data": data})))
    report = json.loads((Path(tree["output_dir"]) / "report.json").read_text())
    assert {Path(sample["path"]).name for sample in report["bad_samples"]} == bad
    assert all(sample["reason"] for sample in report["bad_samples"])
    assert report["num_samples"] == 3
    assert result.steps == 4


def test_media_that_break_only_when_decoded_follow_on_error(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the look at a file did not find: all of them are named, or skipped, and others stand in."""
    import finetrainers.encoding.decoding as encoding

    decode = encoding.decode

    def failing(path: Path, view: Any) -> Any:
        if Path(path).name in {"01.png", "02.png"}:
            raise DataError(f"{path}: breaks in the middle")
        return decode(path, view)

    monkeypatch.setattr(encoding, "decode", failing)
    with pytest.raises(DataError, match="2 bad samples"):
        train(config_of(tree))
    skipping = again(tree, "skip", data=[{**tree["data"][0], "on_error": "skip"}])
    result = train(config_of(skipping))
    assert [Path(sample["path"]).name for sample in result.report["bad_samples"]] == ["01.png", "02.png"]
    assert result.report["num_samples"] == 2
    assert len(curve(skipping["output_dir"], "loss")) == 4


@pytest.mark.parametrize("stop", [1, 3])
def test_what_broke_when_decoded_stays_out_when_the_run_goes_on(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """A resumed start leaves out what the first one found, also if its own steps would never read it."""
    import finetrainers.encoding.decoding as encoding

    decode = encoding.decode

    def failing(path: Path, view: Any) -> Any:
        if Path(path).name == "01.png":
            raise DataError(f"{path}: breaks in the middle")
        return decode(path, view)

    monkeypatch.setattr(encoding, "decode", failing)
    skipping = merged(
        tree, {"data": [{**tree["data"][0], "on_error": "skip"}], "train": {"batch_size": 1, "micro_batch_size": 1}}
    )
    train(config_of(again(skipping, "whole", cache={"path": tree["cache"]["path"] + "-whole"})))
    train(config_of(merged(skipping, {"train": {"steps": stop}})))
    train(config_of(skipping))
    assert curve(tree["output_dir"], "loss") == curve(Path(tree["output_dir"]).with_name("whole"), "loss")
    assert not [e for e in events_of(tree["output_dir"]) if e["event"] == "warning"]


def test_a_clip_that_breaks_in_a_later_window_does_not_stop_a_run_that_skips(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import finetrainers.encoding.decoding as encoding

    encode(config_of(again(tree, "sizes", cache={"path": str(tmp_path / "sizes")})))
    size = sum(entry.bytes for entry in Cache(tmp_path / "sizes").entries())
    decode, decoded = encoding.decode, []

    def failing(path: Path, view: Any) -> Any:
        if Path(path).name not in decoded:
            decoded.append(Path(path).name)
        if Path(path).name in decoded[3:]:  # the last that is needed for the first time
            raise DataError(f"{path}: breaks in the middle")
        return decode(path, view)

    monkeypatch.setattr(encoding, "decode", failing)
    small = {"cache": {"path": str(tmp_path / "small"), "max_gb": 0.6 * size / 1e9}}
    data = [{**tree["data"][0], "on_error": "skip"}]
    single = {"batch_size": 1, "micro_batch_size": 1, "steps": 8}
    result = train(config_of(merged(tree, {"data": data, "train": single, **small})))
    assert result.steps == 8
    assert len(result.report["bad_samples"]) == 1
    assert any("stand in for" in e["message"] for e in events_of(tree["output_dir"]) if e["event"] == "warning")


def test_latents_that_are_not_finite_do_not_enter_the_cache(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    import finetrainers.encoding.encoder as encoding

    encode_pixels = encoding.encode_pixels

    def overflowing(vae: Any, adapter: Any, pixels: torch.Tensor, **options: Any) -> Any:
        mean, std = encode_pixels(vae, adapter, pixels, **options)
        return mean.index_fill(1, torch.tensor(0), torch.inf), std

    monkeypatch.setattr(encoding, "encode_pixels", overflowing)
    with pytest.raises(
        DataError, match=r"4 bad samples(.|\n)*latents are not finite in torch\.float32; try model\.components"
    ):
        encode(config_of(tree))
    assert not [entry for entry in Cache(Path(tree["cache"]["path"])).entries() if entry.kind == "latents"]


def test_files_that_cannot_even_be_looked_at_are_bad_samples(tree: Tree) -> None:
    folder = Path(tree["data"][0]["path"])
    (folder / "zz.png").symlink_to(folder / "nowhere.png")
    (folder / "zz.txt").write_text("a link to nowhere")
    result = train(config_of(merged(tree, {"data": [{**tree["data"][0], "on_error": "skip"}]})))
    assert [Path(sample["path"]).name for sample in result.report["bad_samples"]] == ["zz.png"]
    assert result.report["bad_samples"][0]["reason"]


def test_windows_train_as_the_whole_cache_does(tree: Tree, tmp_path: Path) -> None:
    """A cache that holds two of four pictures: encoded in windows, never above its limit, with the same curve."""
    whole = train(config_of(tree))
    size = sum(entry.bytes for entry in Cache(Path(tree["cache"]["path"])).entries())
    limit = 0.7 * size / 1e9
    small = {"cache": {"path": str(tmp_path / "small"), "max_gb": limit}, "train": {"batch_size": 1, "micro_batch_size": 1}}
    reference = again(tree, "reference", train={"batch_size": 1, "micro_batch_size": 1})
    train(config_of(reference))
    windowed = again(tree, "windowed", **small)
    train(config_of(windowed))
    assert curve(windowed["output_dir"], "loss", "grad_norm") == curve(reference["output_dir"], "loss", "grad_norm")
    left = sum(entry.bytes for entry in Cache(tmp_path / "small").entries())
    assert left <= limit * 1e9
    assert whole.steps == 4


def test_a_cache_too_small_for_one_step_is_an_error_that_says_what_is_enough(tree: Tree) -> None:
    with pytest.raises(ConfigError, match=r"cache\.max_gb: 1e-06 GB cannot hold .* 0\.\d+ GB can"):
        train(config_of(merged(tree, {"cache": {"max_gb": 1e-6}})))


def test_captions_count_as_they_are_stored(tmp_path: Path) -> None:
    """Not with the zeros that are put back: a limit that holds all steps makes one window of them."""
    cache, order = Cache(tmp_path), Order(0, 1, [Group(0, np.arange(1), 1.0)])
    text = torch.cat([torch.ones(9, 64), torch.zeros(503, 64)])
    sizes = [cache.write("text", make_key(number), *without_zeros({"x": text[8 - number :]})) for number in range(8)]
    jobs = [[SampleJob(n, (1, 64, 64), {}, TextJob(make_key(n), "")) for n in (step, 7)] for step in range(7)]
    config, rows = SimpleNamespace(max_gb=8 * max(sizes) / 1e9), lambda _: slice(None)
    encoder: Any = SimpleNamespace(config=config, cache=cache, fill=lambda *_: [], rows=rows)
    plan: Any = SimpleNamespace(step=lambda order, step: jobs[step])
    assert Budget(encoder).window(plan, order, range(7), pinned=()) == 7
    encoder.config.max_gb = 4 * max(sizes) / 1e9
    assert Budget(encoder).window(plan, order, range(7), pinned=()) == 3


def test_an_impossible_bucket_names_the_nearest(tree: Tree) -> None:
    for bucket, nearest in (([1, 60, 64], r"\[1, 64, 64\]"), ([9, 64, 64], r"\[1, 64, 64\]")):
        with pytest.raises(
            ConfigError, match=rf"data\.0\.buckets: .* impossible for flux; the nearest possible is {nearest}"
        ):
            train(config_of(merged(tree, {"data": [{**tree["data"][0], "buckets": [bucket]}]})))


def test_a_cache_file_that_vanishes_is_an_error_not_a_shorter_epoch(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetrainers.encoding.encoder.Encoder.fill", lambda *_: [])
    with pytest.raises(DataError, match="gone or damaged"):
        train(config_of(tree))


@pytest.mark.parametrize(("family", "variant"), [("ltx_video", "0.9.0"), ("hunyuan_video", "t2v")])
def test_padding_that_is_hidden_is_not_stored_and_training_is_the_same(
    family: str, variant: str, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with captions of different lengths in one micro-batch; an empty one is among them."""
    data = write_pictures(tmp_path / "data", 4)
    (data / "01.txt").write_text("one of a few more words")
    batches = {"train": {"steps": 3, "batch_size": 4, "micro_batch_size": 4}}
    tree = merged(flux_tree(tiny(family, variant), data, tmp_path, **batches), {"model": {"max_sequence_length": 32}})
    tree["data"][0]["caption_dropout"] = 0.3
    train(config_of(tree))
    cut = Cache(Path(tree["cache"]["path"]))
    monkeypatch.setattr(encoding_stage, "hide_padding", lambda text, _: text)
    whole = again(tree, "whole", cache={"path": str(tmp_path / "whole")})
    train(config_of(whole))
    assert curve(tree["output_dir"], "loss", "grad_norm") == curve(whole["output_dir"], "loss", "grad_norm")
    sizes = [{e.key: e.bytes for e in cache.entries() if e.kind == "text"} for cache in (cut, Cache(tmp_path / "whole"))]
    assert all(size < sizes[1][key] for key, size in sizes[0].items())


def test_an_item_is_claimed_until_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another process would find it neither there nor taken, and make it once more."""
    monkeypatch.setattr(writing, "NUM_ALONE", 0)
    cache, jobs = Cache(tmp_path), [TextJob(make_key(number), str(number)) for number in range(5)]

    def is_free() -> bool:
        context = multiprocessing.get_context("fork")
        with context.Pool(1) as pool:
            return pool.apply(try_to_take, (tmp_path, jobs[0].key))

    with Claims(tmp_path) as claims, cache.in_batches() as batches:
        progress = Progress(lambda *_: None, 5, Place(), "encode text")
        lazy = Lazy(jobs.__getitem__, len(jobs))
        share = Share("text", lazy, cache=cache, batches=batches, claims=claims, place=Place(), progress=progress)
        for some in share.rounds():
            for job in some:
                assert share.take([job]) == [job]
                cache.write("text", job.key, {"x": torch.zeros(3)}, {})
                share.done([job])
            assert not cache.has("text", jobs[0].key)
            assert not is_free()
        assert cache.has("text", jobs[0].key)
        assert is_free()


def try_to_take(root: Path, key: str) -> bool:
    with Claims(root) as claims:
        return claims.take(key)
