"""The report of an inspection in words, for a terminal of 80 columns."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from finetrainers.data.catalog.found import most_passed_over
from finetrainers.events.words import as_cut, as_share, as_size, as_steps, plural

WIDTH = 80
Report = dict[str, Any]


def as_text(report: Report) -> str:
    """Write all that a report tells."""
    lines = [] if "data" not in report else [line for part in PARTS for line in part(report)]
    verdict = "training would run" if report["would_train"] else f"training would not run: {report['refused']}"
    return "\n".join([*lines, *_wrapped(verdict)])


def _run(report: Report) -> Iterator[str]:
    run, cache = report["run"], report["cache"]["latents_gb"]
    yield f"{run['family']}, {run['task']}: {as_steps(run['steps'], run['batch_size'], run['samples_of_pass'])}"
    yield f"{plural(run['samples'], 'sample')}; {run['held_out']} held out"
    if cache is not None:
        yield f"the cache will hold {as_size(cache)} of latents" if cache else "the cache will hold no latents: on_the_fly"


def _sets(report: Report) -> Iterator[str]:
    for data in report["data"]:
        yield f"{data['path']}:"
        yield from _indented(f"{data['layout']} ({data['why']})") if data["layout"] else ()
        kinds = [plural(data[kind], noun) for kind, noun in (("stills", "still"), ("clips", "clip")) if data[kind]]
        yield f"  {', '.join(kinds)}; {plural(data['samples'], 'sample')}, {plural(data['captions'], 'caption')}"
        left = {"bad": data["bad"], "not listed": data["unlisted"]}
        yield from (f"  {number} {what}" for what, number in left.items() if number)
        over = most_passed_over(data["passed_over"])
        yield from _indented(f"not used: {over}") if over else ()


def _media(report: Report) -> Iterator[str]:
    media = report["media"]
    if media["seconds"] is not None:
        yield f"seconds: {_spread(media['seconds'])}, {media['seconds']['total']:g} in all"
        yield f"frames: {_spread(media['frames'])}"
    if media["fps"]:
        yield "frames a second: " + _listed((f"{row['fps']:g}", row["count"]) for row in media["fps"])
    sizes = ((f"{width}x{height}", row["count"]) for row in media["sizes"] for width, height in [row["size"]])
    yield from _wrapped("sizes: " + _listed(sizes))


def _buckets(report: Report) -> Iterator[str]:
    for row in report["buckets"]:
        told = f"bucket {row['size']}: {plural(row['samples'], 'sample')}"
        if row["samples"]:
            told += f", cut off {as_cut(row['cropped']['mean'], row['cropped']['max'])}"
        if row["upscaled"]:
            told += f", {row['upscaled']} enlarged up to {row['largest_scale']:g} times"
        yield told


def _cropped(report: Report) -> Iterator[str]:
    if report["cropped"]:
        yield from _wrapped(
            "loses most: " + ", ".join(f"{row['path']} ({as_share(row['cropped'])})" for row in report["cropped"])
        )


def _problems(report: Report) -> Iterator[str]:
    for row in report["problems"]:
        yield from _wrapped(f"bad: {row['count']} like {row['paths'][0]}: {row['reason']}")
    for row in [] if report["decoded"] is None else report["decoded"]["failed"]:
        yield from _wrapped(f"cannot be decoded: {row['path']}: {row['reason']}")
    if report["decoded"] is not None:
        yield f"decoded: {plural(report['decoded']['views'], 'view')}, {len(report['decoded']['failed'])} failed"
    for message in report["warnings"]:
        yield from _wrapped(f"warning: {message}")


def _captions(report: Report) -> Iterator[str]:
    captions = report["captions"]
    yield f"captions: {captions['count']}, {captions['distinct']} of them different; words: {_spread(captions['words'])}"
    if captions["tokens"] is not None:
        yield f"tokens: {_spread(captions['tokens'])}; the model sees {captions['max_tokens']}"
    for row in captions["cut"][:1]:
        yield from _wrapped(
            f"{captions['num_cut']} captions are cut; the longest loses {row['lost_tokens']} tokens: {row['caption'][:60]!r}"
        )
    for row in captions["repeated"]:
        yield from _wrapped(f"the same caption {row['count']} times: {row['caption'][:60]!r}")


def _alike(report: Report) -> Iterator[str]:
    pixels, exact, near = report["pixels"], report["duplicates"]["exact"], report["duplicates"]["near"]
    yield f"looked at {pixels['looked_at']} of {pixels['of']} {'medium' if pixels['of'] == 1 else 'media'}"
    names = {"black": "show nothing but black", "white": "show nothing but white", "static": "clips do not move"}
    for key, sentence in names.items():
        if pixels[key]["count"]:
            yield from _wrapped(f"{pixels[key]['count']} {sentence}: {', '.join(pixels[key]['paths'])}")
    for group in exact["examples"]:
        yield from _wrapped(f"equal files: {', '.join(group)}")
    for pair in near["examples"]:
        where = ", one trained on and one held out" if pair["crosses"] else ""
        yield from _wrapped(f"look the same{where}: {' and '.join(pair['paths'])}")


PARTS = (_run, _sets, _media, _buckets, _cropped, _captions, _alike, _problems)


def _spread(values: dict[str, float]) -> str:
    low, high = values["min"], values["max"]
    return f"{low:g}" if low == high else f"{low:g} to {high:g} (median {values['median']:g})"


def _listed(values: Iterator[tuple[str, int]]) -> str:
    return ", ".join(f"{value} ({number})" for value, number in values)


def _indented(text: str) -> Iterator[str]:
    return (f"  {line}" for line in textwrap.wrap(text, WIDTH - 2, subsequent_indent="  ", break_long_words=False))


def _wrapped(text: str) -> Sequence[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) or [""]
