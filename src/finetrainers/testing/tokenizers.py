"""Small real tokenizers, built from a list of words: no download, no training set.

A word of the list becomes one token. Everything else falls back to characters (T5) or bytes (CLIP), so that any
English sentence has tokens and distinct words stay distinct.
"""

import itertools
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, pre_tokenizers
from transformers import CLIPTokenizer, T5TokenizerFast

SPACE = "\u2581"
"""What SentencePiece writes where a word begins."""
END_OF_WORD = "</w>"
START_OF_TEXT, END_OF_TEXT = "<|startoftext|>", "<|endoftext|>"
TYPOGRAPHY = "\u2013\u2014\u2018\u2019\u201c\u201d\u2026\u20ac"
"""Dashes, quotation marks, ellipsis and euro sign: English beyond Latin-1."""
CHARACTERS = frozenset(map(chr, [*range(0x21, 0x7F), *range(0xA1, 0x100)])) | frozenset(TYPOGRAPHY)
WORD_SCORE, CHARACTER_SCORE = -5.0, -10.0
"""Log probabilities of a Unigram model: one word always beats its spelling."""


def make_t5_tokenizer(words: Iterable[str], *, max_length: int = 512) -> T5TokenizerFast:
    """Build a T5 tokenizer that knows these words whole, case included, and spells all others.

    Characters beyond Latin-1, common typography and the words themselves become ``<unk>``: T5's class of transformers 5
    switches byte fallback off.
    """
    pieces = {SPACE + word for text in words for word in text.split()}
    letters = CHARACTERS.union(*pieces) | {SPACE}
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(letter, CHARACTER_SCORE) for letter in sorted(letters)]
    vocabulary += [(piece, WORD_SCORE) for piece in sorted(pieces)]
    # extra_ids are the blanks of T5's own pre-training: a text encoder never sees them.
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=max_length)


def make_clip_tokenizer(words: Iterable[str], *, max_length: int = 77) -> CLIPTokenizer:
    """Build a CLIP tokenizer, byte-level and lower-case, whose merges put these words together whole."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [*letters, *(letter + END_OF_WORD for letter in letters)]
    speller = CLIPTokenizer(vocab=_number([*symbols, START_OF_TEXT, END_OF_TEXT]), merges=[])
    merges = _learn_merges(_split(speller.backend_tokenizer, words))
    vocabulary = _number([*symbols, *map("".join, merges), START_OF_TEXT, END_OF_TEXT])
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)


def _number(tokens: Iterable[str]) -> dict[str, int]:
    """Give each distinct token an id, in order."""
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _split(tokenizer: Tokenizer, texts: Iterable[str]) -> set[str]:
    """Return the pieces into which the tokenizer cuts these texts before it merges anything, in its byte alphabet."""
    normalized = (tokenizer.normalizer.normalize_str(text) for text in texts)
    return {piece for text in normalized for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)}


def _learn_merges(pieces: Iterable[str]) -> list[tuple[str, str]]:
    """Learn byte-pair merges, most frequent pair first, until every piece is one symbol.

    By hand, since the trainer of ``tokenizers`` numbers symbols in the order of a hash map: another order every run.
    The time is quadratic in the number of pieces: right for hundreds of words.
    """
    spellings = [[*piece[:-1], piece[-1] + END_OF_WORD] for piece in sorted(pieces)]
    merges: dict[tuple[str, str], None] = {}
    while counts := Counter(pair for spelling in spellings for pair in itertools.pairwise(spelling)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges[best] = None
        spellings = [_merge(spelling, best) for spelling in spellings]
    return list(merges)


def _merge(spelling: list[str], pair: tuple[str, str]) -> list[str]:
    """Join every occurrence of the pair, from left to right."""
    merged: list[str] = []
    for symbol in spelling:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
