"""Small real tokenizers, built from a list of words: no download, no training set.

A word of the list becomes one token. Everything else falls back to characters (T5) or bytes (CLIP), so that any
English sentence has tokens and distinct words stay distinct.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, T5TokenizerFast

SPACE = "\u2581"
"""What SentencePiece writes where a word begins."""
BYTE_SPACE = "\u0120"
"""What byte-level tokenizers write for a space."""
END_OF_WORD = "</w>"
LLAMA_PIECE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 splits a text."""
LLAMA_HEADER = ("<|start_header_id|>", "<|end_header_id|>")
LLAMA_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", *LLAMA_HEADER, "<|eot_id|>", "<image>", "<pad>"]
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


def make_glm_tokenizer(words: Iterable[str], *, max_length: int = 128000) -> PreTrainedTokenizerFast:
    """Build GLM-4's kind of tokenizer: byte-level, case included, padded on the left, with two tokens before each text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pad, mask, start = "<|endoftext|>", "[gMASK]", "<sop>"
    whole = [prefix + word for text in words for word in text.split() for prefix in ("", BYTE_SPACE)]
    vocabulary = _number([*letters, *sorted(whole), pad, mask, start])
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [(mask, vocabulary[mask]), (start, vocabulary[start])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{mask} {start} $A", special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=pad,
        additional_special_tokens=[mask, start],
        padding_side="left",
        model_max_length=max_length,
    )


def make_llama_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build Llama 3's kind of tokenizer, with LLaVA's <image> and <pad>, for which the pieces of these texts are whole.

    So are their words, with and without a space before them. Other words are spelled in bytes.
    """
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_PIECE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    spoken = [part for text in texts for part in re.split("|".join(map(re.escape, LLAMA_SPECIAL)), text) if part]
    words = [prefix + word for part in spoken for word in part.split() for prefix in ("", " ")]
    pieces = {piece for part in (*spoken, *words) for piece, _ in splitter.pre_tokenize_str(part)}
    vocabulary = _number([*sorted(pre_tokenizers.ByteLevel.alphabet()), *sorted(pieces)])
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    begin, end, *_, pad = LLAMA_SPECIAL
    tokenizer.add_special_tokens(LLAMA_SPECIAL)
    special = [(begin, tokenizer.token_to_id(begin))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=special)
    options = {"bos_token": begin, "eos_token": end, "pad_token": pad, "padding_side": "right"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)


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
