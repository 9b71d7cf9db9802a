"""Captions: openings of captioning models go, what the caption says stays."""

import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from finetrainers.config.data import DataConfig
from finetrainers.data.sources.captions import clean_captions, final_caption


def config(*, prefix="", clean=True):
    return DataConfig(path="x", buckets=[[1, 8, 8]], caption_prefix=prefix, remove_common_llm_caption_prefixes=clean)


@pytest.mark.parametrize(
    "opening",
    [
        "The video shows",
        "This image depicts",
        "the clip features",
        "This short video captures",
        "The video clip begins with",
        "In this video, we see",
        "In the video,",
        "In this image, there is",
        "In the scene, we can see",
        "Throughout the clip,",
        "We see",
        "Caption:",
        "Video description:",
        "Sure! Here is a detailed caption for the video: The video shows",
        "Certainly. This image shows",
        "  The animation portrays ",
        "The image is",
        "This picture is of",
    ],
)
def test_openings_are_cut_and_the_first_letter_is_capitalised(opening):
    assert final_caption(f"{opening} a red ball.", config()) == "A red ball."


def test_a_prefix_stands_before_a_caption_or_alone():
    assert final_caption("A cat", config(prefix="SKS")) == "SKS A cat"
    assert final_caption("", config(prefix="SKS")) == "SKS"


@pytest.mark.parametrize(
    "caption",
    [
        "A video game shows its age.",
        "The video is blurry.",
        "a cat looks at the video shows",
        "The image",
        "The video shows",
        "The man in this video, we see later",
        "Seeing is believing",
        "The picturesque village depicts",
        "lowercase stays",
        "",
    ],
)
def test_other_captions_stay_as_they_are(caption):
    assert final_caption(caption, config()) == caption


def test_nothing_is_cut_unless_asked_for():
    assert final_caption("The video shows a cat", config(clean=False)) == "The video shows a cat"


def test_the_prefix_comes_first_with_a_space():
    assert final_caption("The video shows a cat", config(prefix="PIKA_CRUSH")) == "PIKA_CRUSH A cat"
    assert final_caption("a cat", config(prefix="PIKA_CRUSH")) == "PIKA_CRUSH a cat"
    assert final_caption("a cat", config()) == "a cat"


@given(st.text(max_size=60), st.sampled_from(["", "The video shows ", "In this image, "]))
@settings(max_examples=50, deadline=None)
def test_cleaning_twice_is_cleaning_once_and_leaves_something(text, opening):
    once = final_caption(opening + text, config())
    assert final_caption(once, config()) == once
    assert bool(once) == bool(opening + text)


def test_arrays_keep_their_form():
    texts = pa.array(["The video shows a cat", "A dog", "In this image, a cow"], pa.large_string())
    lists = pa.LargeListArray.from_arrays(pa.array([0, 2, 2, 3]), texts)
    assert clean_captions(texts, config(prefix="X")).to_pylist() == ["X A cat", "X A dog", "X A cow"]
    assert clean_captions(lists, config()).to_pylist() == [["A cat", "A dog"], [], ["A cow"]]
    assert clean_captions(lists[2:], config()).to_pylist() == [["A cow"]]
    assert clean_captions(lists, config()).type == lists.type
