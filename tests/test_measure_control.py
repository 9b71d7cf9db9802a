"""What scripts/measure_control.py measures: edges within a pixel, overlap, and captions that say nothing of the layout."""

from pathlib import Path

import numpy as np
import pytest
from loading import load_script

from finetrainers.quickstart.drawing import PALETTE, SIZE, Pixels
from finetrainers.quickstart.scenes import PLACES, RADIUS, RELATIONS, caption, render_scene

pytest.importorskip("cv2")


script = load_script("measure_control")


def square(x: int, y: int, side: int = 20) -> Pixels:
    """A white square on black."""
    pixels = np.empty((SIZE, SIZE, 3), np.uint8)
    pixels[:] = PALETTE["black"]
    pixels[y : y + side, x : x + side] = PALETTE["white"]
    return pixels


def f1(pixels: Pixels, other: Pixels) -> float:
    score: float = script.edge_scores(script.edges_of(pixels), script.edges_of(other))[2]
    return score


def test_a_picture_agrees_with_itself_and_less_the_further_it_is_moved() -> None:
    assert f1(square(20, 20), square(20, 20)) == 1.0
    assert f1(square(21, 20), square(20, 20)) == 1.0  # within the tolerance
    moved = [f1(square(20 + by, 20 + by), square(20, 20)) for by in (1, 2, 4, 8)]
    assert moved[0] == 1.0
    assert moved[0] > moved[1] > 0.0
    assert max(moved[1:]) < 0.3
    assert f1(square(40, 40), square(4, 4)) == 0.0


def test_without_edges_nothing_agrees() -> None:
    plain = np.zeros((SIZE, SIZE, 3), np.uint8)
    assert f1(plain, square(20, 20)) == f1(square(20, 20), plain) == f1(plain, plain) == 0.0


def test_missing_edges_cost_recall_and_further_ones_precision() -> None:
    one = square(4, 4)
    two = np.maximum(one, square(40, 40))
    found, wanted = script.edges_of(one), script.edges_of(two)
    assert script.edge_scores(found, wanted) == pytest.approx((1.0, 0.5, 2 / 3))
    assert script.edge_scores(wanted, found) == pytest.approx((0.5, 1.0, 2 / 3))


def test_overlap_is_that_of_what_is_not_ground() -> None:
    assert script.overlap_of(square(20, 20), square(20, 20)) == 1.0
    assert script.overlap_of(square(20, 20), square(30, 20)) == pytest.approx(1 / 3)
    assert script.overlap_of(square(4, 4), square(40, 40)) == 0.0


def test_a_real_picture_agrees_in_all_and_another_one_does_not(tmp_path: Path) -> None:
    items = script.write_items(tmp_path / "held_out", 6, seed=3, split="held_out")
    for item, other in zip(items, items[1:], strict=False):
        assert set(script.mean_of([script.agreement(item.pixels, item)]).values()) == {1.0}
        assert script.agreement(other.pixels, item).edge_f1 < 0.6


def test_items_are_the_same_each_time_and_all_have_edges(tmp_path: Path) -> None:
    first, again = (script.write_items(tmp_path / name, 12, seed=3, split="train") for name in ("first", "again"))
    assert [item.scene for item in first] == [item.scene for item in again]
    assert [item.file.read_bytes() for item in first] == [item.file.read_bytes() for item in again]
    assert all(script.edges_of(item.pixels).any() for item in first)
    assert [item.file.with_suffix(".txt").read_text().strip() for item in first] == [
        script.caption_without_layout(item.scene) for item in first
    ]


def test_captions_say_nothing_of_the_layout() -> None:
    words = {word for phrase in (*PLACES, *RELATIONS, *RADIUS) for word in phrase.split()}
    for number in range(200):
        _, scene = render_scene(number, 5, kinds=script.KINDS)
        text = script.caption_without_layout(scene)
        assert not words & set(text.split())
        assert words & set(caption(scene).split())
        assert all(thing.colour in text and thing.shape in text for thing in scene.things)
        assert text.endswith(f"on {scene.ground}")
