"""comparison.png: captions that can be read, pictures that are whole."""

import numpy as np
import pytest

from finetrainers.quickstart.comparison import (
    CAPTION_SIZE,
    CELL,
    HEADER,
    LABEL,
    MARGIN,
    MARK_SIZE,
    RIGHT,
    WRONG,
    Row,
    corner,
    draw_comparison,
    font,
    size_of,
    verdict,
    wrap,
)
from finetrainers.quickstart.concept import banner_caption, sample_banner
from finetrainers.quickstart.measure import Measurement

COUNT = 6
CAPTIONS = [banner_caption(sample_banner(n, 3, split="held_out")) for n in range(COUNT)]


def rows_of(*colours):
    return [
        Row(f"row {n}", [np.full((64, 64, 3), colour, np.uint8)] * COUNT, [[]] * COUNT) for n, colour in enumerate(colours)
    ]


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_caption_fits_above_its_picture(split):
    for n in range(300):
        lines = wrap(banner_caption(sample_banner(n, 3, split=split))).splitlines()
        assert max(font(CAPTION_SIZE).getlength(line) for line in lines) <= CELL
        assert len(lines) * (CAPTION_SIZE + 5) <= HEADER


def test_pictures_are_whole_and_where_they_belong():
    picture = np.asarray(draw_comparison(CAPTIONS, rows_of(10, 20, 30)))
    assert picture.shape[1::-1] == size_of(COUNT, 3)
    for row, colour in enumerate((10, 20, 30)):
        for column in range(COUNT):
            x, y = corner(row, column)
            assert np.all(picture[y : y + CELL, x : x + CELL] == colour)


def test_captions_are_written_above_and_labels_beside_the_pictures():
    picture = np.asarray(draw_comparison(CAPTIONS, rows_of(10, 20)))
    for column in range(COUNT):
        x, y = corner(0, column)
        assert (picture[MARGIN : y - 4, x : x + CELL] < 100).any()
        assert np.all(picture[:MARGIN] == 255)
    for row in range(2):
        y = corner(row, 0)[1]
        assert (picture[y : y + CELL, MARGIN : MARGIN + LABEL] < 100).any()


def test_a_picture_says_whether_it_measures_right():
    pictures = [np.full((64, 64, 3), 255, np.uint8)] * 2
    picture = np.asarray(draw_comparison(CAPTIONS[:2], [Row("after", pictures, [[], ["order"]])])).astype(int)
    x, y = corner(0, 1)
    below = picture[y + CELL :]
    for half, ink, other in ((below[:, : x - 5], RIGHT, WRONG), (below[:, x:], WRONG, RIGHT)):
        assert np.abs(half - ink).sum(-1).min() < 30
        assert np.abs(half - other).sum(-1).min() > 100


def test_a_verdict_names_the_checks_that_fail_as_far_as_they_fit():
    checks = {"ground": True, "banner": True, "kind": False, "colours": False, "order": False}
    assert verdict(Measurement(checks).faults[:1]) == "wrong: kind"
    assert verdict([]) == "right"
    for faults in (Measurement(checks).faults, list(checks), ["x" * 99]):
        text = verdict(faults)
        assert font(MARK_SIZE).getlength(text) <= CELL
        assert text == "wrong" or text.endswith(" ...") or text == f"wrong: {', '.join(faults)}"
    assert verdict(list(checks)).startswith("wrong: ground, ")
