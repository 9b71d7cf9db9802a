"""Frame rates: faster clips are brought to the model's, by time stamp; the same ones keep their frames, and their keys."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from media_factory import read_counters, real_clip, write_counter
from runs import config_of, events_of, flux_tree

import finetrainers
from finetrainers.config import DataConfig, ModelConfig
from finetrainers.data.catalog.catalog import Catalog, build_catalog, view_of
from finetrainers.data.catalog.followers import following_view
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.rates import resampled_fps
from finetrainers.data.media.files import decode
from finetrainers.data.order.plan import Plan
from finetrainers.data.streams import MEDIA, Stream
from finetrainers.errors import DataError
from finetrainers.models import open_model
from finetrainers.sampling.sampler import decode_control

BUCKET = (9, 64, 128)


def write(folder: Path, **clips: tuple[int, int | Fraction]) -> Path:
    """Clips by name, of so many frames at a rate; frames show their numbers."""
    folder.mkdir(parents=True)
    for name, (count, fps) in clips.items():
        write_counter(folder / f"{name}.mp4", count, fps=fps)
        (folder / f"{name}.txt").write_text(name)
    return folder


def catalog_of(folder: Path, native_fps: float | None, said: list[str] | None = None, **options: Any) -> Catalog:
    streams = (MEDIA, Stream("control", "condition")) if "control_path" in options else (MEDIA,)
    config = DataConfig.model_validate({"path": str(folder), "buckets": [BUCKET], **options})
    memo = Memo(folder.parent / "memo.sqlite")
    try:
        return build_catalog(
            [config],
            memo,
            workers=1,
            progress=lambda done, total: None,
            streams=streams,
            native_fps=native_fps,
            frame_step=4,
            warn=[].append if said is None else said.append,
        )
    finally:
        memo.close()


def decoded(catalog: Catalog) -> dict[str, list[int]]:
    """Numbers of the frames that each sample shows, by the clip's name."""
    (data,) = catalog.sets
    found = {}
    for sample, item in enumerate(data.item):
        path = Path(data.table["media"][int(item)].as_py())
        found[path.stem] = read_counters(decode(path, view_of(data, sample, view=0, bucket=BUCKET)))
    return found


def keys(catalog: Catalog) -> list[str]:
    plan = Plan(catalog, 0, "vae", "text")
    return [plan.stream_job(MEDIA, sample, 0).key for sample in range(catalog.num_samples)]


@pytest.mark.parametrize(
    ("fps", "native", "is_resampled"),
    [
        (30, 16.0, True),
        (Fraction(30000, 1001), 16.0, True),
        (24, 16.0, True),
        (16, 16.0, False),
        (Fraction(1615, 100), 16.0, False),  # within 1 %
        (8, 16.0, False),  # cannot be reached
        (30, 24.0, True),
        (25, 24.0, True),
        (24, 24.0, False),
        (Fraction(24000, 1001), 24.0, False),
        (16, 8.0, True),
        (30, None, False),  # the model is told the rate
    ],
)
def test_faster_clips_show_what_is_on_screen_at_the_models_rate(
    tmp_path: Path, fps: int | Fraction, native: float | None, is_resampled: bool
) -> None:
    catalog = catalog_of(write(tmp_path / "clips", a=(40, fps)), native)
    own = list(range(9))
    on_screen = [int(Fraction(10 * k + 1, 10) / Fraction(native) * fps) for k in own] if native else own
    assert decoded(catalog)["a"] == (on_screen if is_resampled else own)
    own_frames = catalog_of(tmp_path / "clips", native, fps=None)
    assert (keys(catalog) == keys(own_frames)) is not is_resampled
    if native and is_resampled:
        assert keys(catalog) == keys(catalog_of(tmp_path / "clips", None, fps=native))


def test_a_real_clip_of_25_frames_a_second_is_seen_at_16(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    shutil.copy(real_clip("bikes.mp4"), tmp_path / "clips" / "a.mp4")
    (tmp_path / "clips" / "a.txt").write_text("bikes")
    bucket = (33, 64, 128)
    (data,) = catalog_of(tmp_path / "clips", 16.0, buckets=[bucket]).sets
    view = view_of(data, 0, view=0, bucket=bucket)
    clip = decode(tmp_path / "clips" / "a.mp4", view)
    whole = decode(tmp_path / "clips" / "a.mp4", replace(view, fps=None, num_frames=60)).pixels
    assert clip.fps == 16.0
    assert np.array_equal(clip.pixels, whole[[int((k + 0.1) / 16 * 25) for k in range(33)]])


def test_each_clip_of_a_set_has_its_own_rate(tmp_path: Path) -> None:
    """Windows and lengths are counted after resampling: 40 frames at 30 a second are 22 at 16."""
    folder = write(tmp_path / "clips", fast=(40, 30), same=(40, 16), slow=(40, 8))
    (data,) = catalog_of(folder, 16.0, [], frame_sampling="chunks").sets
    assert data.fps.tolist() == [16.0, 0.0, 0.0]
    assert np.bincount(data.item).tolist() == [2, 4, 4]


@given(
    fps=st.lists(st.floats(0, 120), min_size=1, max_size=5),
    native=st.none() | st.floats(1, 60),
    wanted=st.sampled_from(["auto", None, 12.0]),
    stride=st.sampled_from([1, 2]),
)
def test_no_clip_is_brought_to_a_rate_above_its_own(
    fps: list[float], native: float | None, wanted: Any, stride: int
) -> None:
    stride = 1 if wanted == 12.0 else stride
    config = DataConfig.model_validate({"path": "d", "buckets": [BUCKET], "fps": wanted, "stride": stride})
    found = resampled_fps(config, np.array(fps), native).tolist()
    if wanted == 12.0:
        assert found == [12.0] * len(fps)
    elif wanted is None or native is None or stride == 2:
        assert found == [0.0] * len(fps)
    else:
        assert all(rate in {0.0, native} for rate in found)
        assert all(rate == 0.0 for own, rate in zip(fps, found, strict=True) if own <= native)
        assert all(rate == native for own, rate in zip(fps, found, strict=True) if own > 1.011 * native)


def test_slow_clips_are_counted_and_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "clips", **{f"slow{n}": (10 + n, 8) for n in range(5)}, same=(20, 16), fast=(30, 30))
    said: list[str] = []
    catalog_of(folder, 16.0, said)
    (message,) = said
    assert message.startswith(f"{folder}: 5 clips have fewer frames a second than the 16 that the model was trained on")
    assert f"{folder}/slow0.mp4 (10 frames at 8 frames a second), {folder}/slow1.mp4 (11 frames at 8 fr" in message
    assert "slow2.mp4 (12 frames at 8 frames a second) and 2 more. " in message
    assert "set fps: null" in message


def test_fast_clips_that_keep_their_own_frames_are_counted_and_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "clips", slow=(20, 8), same=(20, 16), fast=(30, 30))
    said: list[str] = []
    catalog_of(folder, 16.0, said, fps=None)
    assert said == [
        f"{folder}: 1 clip has more frames a second than the 16 that the model was trained on, and fps: null takes their "
        f"own, so that motion is learned too slow: {folder}/fast.mp4 (30 frames at 30 frames a second). Remove fps: null, "
        "unless that is meant"
    ]
    catalog_of(folder, 16.0, said, fps=None, stride=2)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("native", "options"), [(16.0, {"fps": None}), (16.0, {"fps": 12.0}), (16.0, {"stride": 2}), (None, {}), (8.0, {})]
)
def test_there_is_no_word_where_no_rate_is_missed(tmp_path: Path, native: float | None, options: dict[str, Any]) -> None:
    said: list[str] = []
    catalog = catalog_of(write(tmp_path / "clips", slow=(20, 8)), native, said, **options)
    assert (catalog.num_samples, said) == (1, [])


@pytest.mark.parametrize(
    ("clip", "options", "said"),
    [
        (
            (15, 30),
            {},
            "has 15 frames at 30 frames a second, 8 at 16; the shortest bucket needs 9; add a bucket of 5 frames or "
            "fewer; with fps: null it would keep its own frames",
        ),
        (
            (8, 30),
            {},
            "has 8 frames at 30 frames a second, 5 at 16; the shortest bucket needs 9; add a bucket of 5 frames or fewer",
        ),
        ((8, 16), {}, "has 8 frames at 16 frames a second; the shortest bucket needs 9; add a bucket of 5 frames or fewer"),
        ((4, 16), {}, "has 4 frames at 16 frames a second; the shortest bucket needs 9"),
        (
            (16, 30),
            {"stride": 2},
            "has 16 frames at 30 frames a second, 8 with stride 2; the shortest bucket needs 9; add a bucket of 5 frames or "
            "fewer",
        ),
    ],
)
def test_a_clip_that_is_too_short_is_told_its_own_frames_and_rate(
    tmp_path: Path, clip: tuple[int, int], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError) as error:
        catalog_of(write(tmp_path / "clips", a=clip), 16.0, **options)
    assert str(error.value).splitlines()[1].strip() == f"{tmp_path}/clips/a.mp4: {said}"


def test_controls_are_resampled_as_their_media_are(tmp_path: Path) -> None:
    media = write(tmp_path / "media", fast=(40, 30), same=(40, 16))
    controls = str(write(tmp_path / "controls", fast=(40, 30), same=(40, 16)))
    (data,) = catalog_of(media, 16.0, control_path=controls).sets
    assert data.frames["control"].tolist() == [22, 40]
    for sample, name in enumerate(("fast", "same")):
        view = view_of(data, sample, view=0, bucket=BUCKET)
        other = following_view(data, sample, "control", view, frame_step=4)
        assert other.fps == view.fps == {"fast": 16.0, "same": None}[name]
        shown = [read_counters(decode(Path(folder) / f"{name}.mp4", view)) for folder in (media, controls)]
        assert shown[0] == shown[1]


def test_controls_are_resampled_as_their_media_are_in_the_middle(tmp_path: Path) -> None:
    """Where the length decides which frames are taken: 60 frames at 30 a second are 32 at 16, as 60 of the control are."""
    media, controls = (write(tmp_path / name, a=(60, 30)) for name in ("media", "controls"))
    (data,) = catalog_of(media, 16.0, control_path=str(controls), frame_sampling="middle").sets
    view = view_of(data, 0, view=0, bucket=BUCKET)
    other = following_view(data, 0, "control", view, frame_step=4)
    on_screen = [int((k + 0.1) / 16 * 30) for k in range(11, 20)]
    assert read_counters(decode(media / "a.mp4", view)) == read_counters(decode(controls / "a.mp4", other)) == on_screen


def test_a_control_of_another_rate_is_paired_frame_by_frame_only_where_nothing_is_resampled(tmp_path: Path) -> None:
    """As many frames in other times: at the model's rate they would show other moments."""
    media = write(tmp_path / "media", a=(40, 30))
    controls = str(write(tmp_path / "controls", a=(40, 24)))
    assert catalog_of(media, None, control_path=controls).num_samples == 1
    assert catalog_of(media, 16.0, control_path=controls, fps=None).num_samples == 1
    with pytest.raises(DataError, match="has 24 frames per second where the media have 30, so that its frames would show"):
        catalog_of(media, 16.0, control_path=controls)


@pytest.mark.parametrize(("fps", "native", "last"), [(30, 16.0, 15), (16, 16.0, 8), (8, 16.0, 8), (30, None, 8)])
def test_the_control_of_a_prompt_is_shown_at_the_models_rate(
    tmp_path: Path, fps: int, native: float | None, last: int
) -> None:
    file = write(tmp_path / "clips", a=(40, fps)) / "a.mp4"
    data = DataConfig.model_validate({"path": "d", "buckets": [BUCKET], "resize": "stretch"})
    pixels = decode_control(file, BUCKET, frame_step=4, data=data, native_fps=native)
    assert read_counters(_Shown(pixels))[-1] == last


class _Shown:
    """Pixels [K, P, Q, 3] as a clip has them."""

    def __init__(self, pixels: Any) -> None:
        self.pixels = pixels


@pytest.mark.parametrize(
    ("family", "variant", "native", "drawn"),
    [
        ("wan", "2.1-t2v", 16.0, 16.0),
        ("wan", "2.2-ti2v-5b", 24.0, 24.0),
        ("hunyuan_video", "t2v", 24.0, 24.0),
        ("cogvideox", "5b", 8.0, 8.0),
        ("cogvideox", "1.5-5b", 16.0, 16.0),
        ("ltx_video", "0.9.0", None, 25.0),
        ("flux", "dev", None, 24.0),
    ],
)
def test_families_that_are_not_told_the_rate_have_one(
    tiny: Callable[[str, str], Path], family: str, variant: str, native: float | None, drawn: float
) -> None:
    adapter = open_model(ModelConfig(path=str(tiny(family, variant)), dtype="float32")).adapter
    assert (adapter.training.native_fps, adapter.default_fps) == (native, drawn)


def test_a_run_of_a_model_of_16_frames_a_second_encodes_clips_of_30_at_16(
    tiny: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """From the configuration on: no key is given, the saved one says auto, and the slow clip is warned of."""
    clips = write(tmp_path / "clips", fast=(20, 30), slow=(9, 8))
    tree = flux_tree(tiny("wan", "2.1-t2v"), clips, tmp_path, train={"steps": 1, "batch_size": 1, "micro_batch_size": 1})
    tree["data"][0]["buckets"] = [[9, 32, 64]]
    finetrainers.train(config_of(tree))
    (warned,) = (event["message"] for event in events_of(tmp_path / "run") if event["event"] == "warning")
    assert "1 clip has fewer frames a second than the 16" in warned
    assert "fps: auto" in (tmp_path / "run" / "config.yaml").read_text()
    finetrainers.train(config_of(tree))  # goes on with the saved configuration
