"""Write into the pages what they show of other files: recipes of the examples, the table of cards, how to install.

python scripts/fill_docs.py            # writes the pages
python scripts/fill_docs.py --check    # fails if a page is not up to date

A block of YAML whose ``output_dir`` is that of an example in ``examples/training`` is that example's config.yaml, without
its comments. What stands between ``<!-- part: NAME -->`` and ``<!-- end of part -->`` is the part of this name.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples/training"
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted(EXAMPLES.rglob("README.md")))
REPOSITORY = "ADDRESS"
"""Where this repository is. It is not published yet: ``ADDRESS`` stands for wherever the reader has found it."""
BLOCK = re.compile(r"^```yaml\noutput_dir: (\S+)\n.*?^```$", re.MULTILINE | re.DOTALL)
PART = re.compile(r"^<!-- part: (\w+) -->\n.*?^<!-- end of part -->$", re.MULTILINE | re.DOTALL)
WIDTH = 76
"""Letters of a line of code, on a page of 1280 pixels."""
FP8 = "text_encoder_weights: fp8_e4m3"
CARDS = ("12 GB", "16 GB", "24 GB", "48 GB")
PLAIN_SETS = 4
"""The first sets of docs/cards.md are no more than kinds of gradient checkpointing."""
STAGES = {
    "encode text": "while captions are encoded",
    "encode media": "while media are encoded",
    "load": "while the model is loaded",
    "step": "during a training step",
    "validation": "during validation",
    "save": "during saving",
}
"""Stages of a plan."""
KEYS_OF_EXTRAS = ("memory.weights", "memory.text_encoder_weights", "optimizer.name")
EXTRAS = {
    "int8": "torchao",
    "fp8_scaled": "torchao",
    "nf4": "bitsandbytes",
    "adamw_8bit": "bitsandbytes",
    "adamw_4bit": "torchao",
    "adamw_fp8": "torchao",
}
"""Extra that a value of these keys needs."""
PLANNED = "plan"
NOTHING = "nothing fits"
"""What a plan that finds nothing is said to propose."""
USABLE = 0.9
"""Part of a card that may be counted, as ``memory.preset: auto`` does it."""
PAGES_OF_MODELS = {
    "LTX": "ltx_video",
    "CogVideoX": "cogvideox",
    "HunyuanVideo": "hunyuan_video",
    "Wan": "wan",
    "FLUX": "flux",
    "CogView4": "cogview4",
}


@cache
def recipes() -> dict[str, str]:
    """Recipe of each example by its ``output_dir``."""
    found = {}
    for file in sorted((ROOT / "examples/training").rglob("config.yaml")):
        text = recipe(file.read_text())
        name = yaml.safe_load(text)["output_dir"]
        assert name not in found, f"two examples write to {name}"
        found[name] = text
    return found


def recipe(text: str) -> str:
    """Leave the comments of a configuration out, and break what is longer than a page is wide."""
    lines = [re.sub(r"(^|\s+)#.*$", "", line) for line in text.splitlines()]
    short = "\n".join(broken(line) for line in lines if line.strip())
    assert yaml.safe_load(short) == yaml.safe_load(text), "there is a # in a value"
    return short


def broken(line: str) -> str:
    """Break a line between the keys that it has in braces, until each part is as wide as a page."""
    if len(line) <= WIDTH or ", " not in line[:WIDTH]:
        return line
    head = line[: line.rindex(", ", 0, WIDTH) + 1]
    indent = " " * max(2, len(line) - len(line.lstrip()))
    return f"{head}\n{broken(indent + line[len(head) :].lstrip())}"


def table_of(page: str, first: str) -> list[dict[str, str]]:
    """Read the table of a page whose header begins with some cells: one dictionary a row, by column."""
    lines = (DOCS / page).read_text().splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    header, _, *rows = rows
    return [dict(zip(header, row, strict=True)) for row in rows]


@cache
def costs_of() -> dict[str, tuple[str, str, str]]:
    """GB and seconds of a step, and a mark, by model: compiled, or ² as an earlier version took it."""
    today = {row["model"]: (row["compiled"], "") for row in table_of("benchmarks.md", "model | this version")}
    earlier = {row["model"]: (row["earlier version"], "²") for row in table_of("benchmarks.md", "model | earlier version")}
    figures = {}
    for row in table_of("cards.md", "model | denoiser"):  # "CogView4 6B", which is CogView4 there
        name = row["model"]
        (known,) = (own for own in {**earlier, **today} if own == name or name.startswith(f"{own} "))
        text, mark = {**earlier, **today}[known]
        seconds, gib = re.fullmatch(r"([\d.]+) s, ([\d.]+)", text).groups()  # type: ignore[union-attr]
        figures[name] = (f"{float(gib) * 2**30 / 1e9:.0f}", f"{float(seconds):.2g}", mark)
    return figures


@cache
def cards() -> str:
    """Compose the table of the start page: which model fits which card, from docs/cards.md."""
    lines = [f"| model | {' | '.join(CARDS)} |", f"|---|{'---|' * len(CARDS)}"]
    lines += [f"| {linked(row['model'])} | {' | '.join(verdicts(row))} |" for row in table_of("cards.md", "model | 12 GB")]
    return "\n".join(lines)


@cache
def costs() -> str:
    """Compose the table of what each model takes, from docs/benchmarks.md and docs/cards.md."""
    lines = ["| model | memory | step | files |", "|---|---|---|---|"]
    for row in table_of("cards.md", "model | denoiser"):
        gb, seconds, mark = costs_of()[row["model"]]
        lines.append(f"| {linked(row['model'])} | {gb} GB{mark} | {seconds} s{mark} | {row['all']} GB |")
    return "\n".join(lines)


def family(page: Path) -> str:
    """Say of each model of a family's page which card it fits, and what a step took."""
    figures, lines = costs_of(), []
    for row in table_of("cards.md", "model | 12 GB"):
        if page_of(row["model"]) == page.stem:
            gb, seconds, mark = figures[row["model"]]
            took = f"A step took {gb} GB and {seconds} s on an H200{', with an earlier version' if mark else ''}."
            lines.append(f"- **{row['model']}** fits a card of {fitting(row)} (predicted). {took}")
    return "\n".join([*lines, "", "LoRA of rank 128: see [the start page](../index.md#does-it-fit-my-card)."])


def fitting(row: Mapping[str, str]) -> str:
    """Name the smallest card that fits, and smaller ones with what they take."""
    keys = {"yes": "", "yes¹": FP8, "preset": "preset: auto", "preset¹": f"preset: auto, {FP8}", PLANNED: ""}
    words = verdicts(row)
    ways, below = [], len(CARDS)
    for word, memory in keys.items():
        if word in words[:below]:
            below = words.index(word)
            keys_of = f" with `memory: {{{memory}}}`" if memory else ""
            ways.append(
                CARDS[below] + (" with what [a plan](../cards.md#plans-of-whole-runs) adds" if word == PLANNED else keys_of)
            )
    return ", or of ".join(ways)


@cache
def texts_of() -> dict[str, float]:
    """GB of the text encoders by model."""
    return {row["model"]: float(row["text encoders"]) for row in table_of("cards.md", "model | denoiser")}


def linked(name: str) -> str:
    """Link the name of a model to its family's page."""
    return f"[{name}](models/{page_of(name)}.md)"


def page_of(name: str) -> str:
    """Name the page of a model's family."""
    (page,) = (own for begin, own in PAGES_OF_MODELS.items() if name.startswith(begin))
    return page


@cache
def planned() -> dict[tuple[str, str], str]:
    """What a plan proposes beyond the sets of docs/cards.md, by model and card; as far as one was made."""
    rows = table_of("cards.md", "model | card")
    return {(row["model"], f"{row['card']} GB"): row["proposed"] for row in rows}


def verdicts(row: Mapping[str, str]) -> list[str]:
    """Say of a row of docs/cards.md what it takes to fit on each card, by all that was counted there."""
    model, words = row["model"], []
    for card in CARDS:
        proposed = planned().get((model, card), NOTHING)
        words.append(verdict(row[card], texts_of()[model], int(card.split()[0]), proposed=proposed))
    return words


def verdict(cell: str, text_encoders: float, card: int, *, proposed: str = NOTHING) -> str:
    """Say in a word what it takes to fit, gradient checkpointing or more; with a mark if captions (GB) need more, too.

    Where no set fits, a plan may have found one with another optimizer: it has all keys, those for captions among them.
    """
    if cell == "-":
        return "no" if proposed == NOTHING else PLANNED
    word = "yes" if int(cell.partition(":")[0]) <= PLAIN_SETS else "preset"
    return f"{word}¹" if text_encoders > USABLE * card else word


def takes(page: Path) -> str:
    """Say what an example takes, from docs/measured_examples.md."""
    name = str(page.parent.relative_to(EXAMPLES))
    row: dict[str, str] = {}
    for first in ("example | GB", "example | item"):
        row |= {own["example"]: own for own in table_of("measured_examples.md", first)}.get(name, {})
    if not row:
        config = f"examples/training/{name}/config.yaml"
        command = f"```bash\nfinetrainers plan {config} --gpu 80GB\n```"
        return f"Memory and time were not counted so far. A plan predicts them:\n\n{command}"
    train = yaml.safe_load((page.parent / "config.yaml").read_text())["train"]
    seconds = float(row["step"].removesuffix(" s"))
    lines = [
        "Counted, not measured (all examples: `docs/measured_examples.md`):",
        "",
        f"- **Memory**: a peak of {row['GB']} GB, {STAGES[row['in']]}. As written, it fits a card with {row['card']} GB.",
        *smaller(row["on 24 GB"]),
        f"- **Time**: {row['step']} for a step of {train['batch_size']} samples on an H200, which is",
        f"  {hours(seconds * train['steps'])} for {train['steps']} steps. Encoding and validation take extra time.",
        f"- **Disk**: {row['item']} per item in the cache, {row['checkpoint']} per checkpoint, {row['weights']} per export.",
    ]
    return "\n".join(lines)


def smaller(cell: str) -> list[str]:
    """Say what a card of 24 GB needs, where it needs more than what is written."""
    if cell == "as written":
        return []
    if cell == NOTHING:
        return ["- **On 24 GB**: nothing that was counted fits."]
    if cell == "not counted":
        return ["- **On a smaller card**: `finetrainers plan CONFIG --gpu 24GB` looks for settings that fit."]
    gb, keys = cell.split(": ", 1)
    return [f"- **On 24 GB**: {gb} GB with these overrides at the end of the command:", f"  {keys}{needed(keys)}"]


def needed(keys: str) -> str:
    """Name the extras of the packages that keys need, beside what a plain install has."""
    pairs = [pair.split("=") for pair in keys.strip("`").split()]
    extras = {EXTRAS[value] for key, value in pairs if key in KEYS_OF_EXTRAS and value in EXTRAS}
    return f" (needs the extra {' and '.join(f'`{extra}`' for extra in sorted(extras))})" if extras else ""


def hours(seconds: float) -> str:
    """Write a time as people say it."""
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.0f} minutes"


def install() -> str:
    """Say how to install it."""
    return f"```sh\ngit clone {REPOSITORY} finetrainers\npip install ./finetrainers\n```"


PARTS: Mapping[str, Callable[[Path], str]] = {
    "cards": lambda _: cards(),
    "costs": lambda _: costs(),
    "family": family,
    "install": lambda _: install(),
    "takes": takes,
}


def filled(page: Path) -> str:
    """Return the text of a page with all that it shows of other files."""
    known = recipes()

    def own_recipe(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"```yaml\n{known[name]}\n```" if name in known else match.group()

    def part(match: re.Match[str]) -> str:
        text = PARTS[match.group(1)](page)
        if page.parent == ROOT:
            text = re.sub(r"\]\((?=[\w/]+\.md)", "](docs/", text)
        return f"<!-- part: {match.group(1)} -->\n\n{text}\n\n<!-- end of part -->"

    return PART.sub(part, BLOCK.sub(own_recipe, page.read_text()))


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page would change")
    options = parser.parse_args()
    stale = []
    for page in PAGES:
        text = filled(page)
        if text != page.read_text():
            stale.append(page.relative_to(ROOT))
            if not options.check:
                page.write_text(text)
    for name in stale:
        print(f"{name} {'is not up to date: run python scripts/fill_docs.py' if options.check else 'is written'}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
