"""The tokenizers know their words, spell the rest, and survive a round trip."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from transformers import CLIPTokenizer, T5TokenizerFast

from finetrainers.testing import make_clip_tokenizer, make_t5_tokenizer
from finetrainers.testing.tiny import WORDS
from finetrainers.testing.tokenizers import make_glm_tokenizer

T5, CLIP = make_t5_tokenizer(WORDS.split()), make_clip_tokenizer(WORDS.split())
SENTENCES = [
    "a red cube on the left",
    "An aardvark's \u201cstrange\u201d caf\xe9 \u2013 42% off!",
    "",
    "walking,running;jumping",
    "a  red\tcube\non the left",
]


def printable(first: int) -> st.SearchStrategy[str]:
    """ASCII without "<": a text that spells a special token is that token, as in every tokenizer."""
    return st.characters(min_codepoint=first, max_codepoint=0x7E, exclude_characters="<")


@pytest.mark.parametrize("tokenizer", [T5, CLIP])
def test_every_known_word_is_one_token(tokenizer: T5TokenizerFast | CLIPTokenizer) -> None:
    tokens = tokenizer(WORDS.split(), add_special_tokens=False).input_ids
    assert {len(ids) for ids in tokens} == {1}
    assert len({ids[0] for ids in tokens}) == len(tokens)


@pytest.mark.parametrize("tokenizer", [T5, CLIP])
@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_round_trip_through_files_changes_no_token(
    tokenizer: T5TokenizerFast | CLIPTokenizer, sentence: str, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = type(tokenizer).from_pretrained(tmp_path)
    options = {"padding": "max_length", "max_length": 32, "truncation": True}
    assert loaded(sentence, **options).data == tokenizer(sentence, **options).data
    assert (len(loaded), loaded.model_max_length) == (len(tokenizer), tokenizer.model_max_length)
    assert loaded.special_tokens_map == tokenizer.special_tokens_map


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=printable(0x20)))
def test_t5_loses_nothing_but_extra_spaces(text: str) -> None:
    ids = T5(text).input_ids
    assert T5.unk_token_id not in ids
    assert T5.decode(ids, skip_special_tokens=True) == " ".join(text.split())


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=printable(0x21), min_size=1))
def test_clip_loses_nothing_but_case(text: str) -> None:
    tokens = CLIP.convert_ids_to_tokens(CLIP(text, add_special_tokens=False).input_ids)
    assert "".join(tokens).replace("</w>", "") == text.lower()


def test_clip_spells_any_script_in_bytes() -> None:
    assert CLIP.unk_token_id not in CLIP("\u732b \U0001f408", add_special_tokens=False).input_ids


def test_t5_learns_the_characters_of_its_words() -> None:
    ids = make_t5_tokenizer(["\u732b"])("\u732b\u732b").input_ids
    assert T5.unk_token_id not in ids


def test_sentences_end_as_the_real_ones_do() -> None:
    assert T5("a red cube").input_ids[-1] == T5.eos_token_id == 1
    assert T5.pad_token_id == 0
    assert "<extra_id_0>" not in T5.get_vocab()
    ids = CLIP("a red cube").input_ids
    assert (ids[0], ids[-1]) == (CLIP.bos_token_id, CLIP.eos_token_id) == (len(CLIP) - 2, len(CLIP) - 1)


def test_the_order_of_the_words_does_not_matter() -> None:
    words = WORDS.split()
    assert make_t5_tokenizer(reversed(words)).get_vocab() == T5.get_vocab()
    assert make_clip_tokenizer(reversed(words)).get_vocab() == CLIP.get_vocab()


def test_glm_keeps_every_text_and_knows_its_words() -> None:
    """As GLM-4's: two tokens before each text, padding at its left, and any script in bytes."""
    glm = make_glm_tokenizer(WORDS.split())
    start = glm.convert_tokens_to_ids(["[gMASK]", "<sop>"])
    assert glm("").input_ids == start
    assert len(glm(" red cube", add_special_tokens=False).input_ids) == 2
    for text in [*SENTENCES, "\u732b \U0001f408"]:
        ids = glm(text).input_ids
        assert ids[:2] == start
        assert glm.decode(ids, skip_special_tokens=True) == text
    both = glm(["a red cube", "star"], padding="longest").input_ids
    assert both[1] == [glm.pad_token_id] * (len(both[0]) - 3) + start + glm("star", add_special_tokens=False).input_ids
