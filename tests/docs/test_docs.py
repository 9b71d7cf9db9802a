"""The documentation says what the code does: reference, snippets, public names, events, commands."""

import argparse
import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from diffusers import SD3Transformer2DModel
from loading import load_script
from runs import config_of, events_of, flux_tree, merged, write_pictures

import finetrainers
from finetrainers.batch import Prompt
from finetrainers.cli.bench import bench_parser
from finetrainers.cli.check import check_parser
from finetrainers.cli.commands import build_parser
from finetrainers.cli.launch import launch_parser
from finetrainers.cli.rehearse import rehearse_parser
from finetrainers.conditioning import build_conditioning
from finetrainers.config import ChannelConcatConfig, LoraConfig, load_config
from finetrainers.config.conditioning import SIGNALS
from finetrainers.config.reference import keys
from finetrainers.data.sources.metadata import CONTROL_COLUMNS
from finetrainers.events import OtherEvent, read_event
from finetrainers.files.whole import to_json
from finetrainers.models.registry import load_adapter
from finetrainers.tuning import ExportFacts, build_tuning

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SUFFIXES = {"yaml": ".yaml", "json": ".json", "toml": ".toml"}
SCHEMA: dict[str, Any] = json.loads((ROOT / "src/finetrainers/training/events.schema.json").read_text())


def configurations() -> list[Any]:
    return [
        pytest.param(text, SUFFIXES[language], id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, (language, text) in enumerate(FENCE.findall(page.read_text()))
        if language in SUFFIXES and re.search(r'^\s*"?output_dir"?\s*[:=]', text, re.MULTILINE)
    ]


@cache
def reference_pages() -> dict[str, str]:
    pages: dict[str, str] = load_script("make_config_reference").reference_pages()
    return pages


@cache
def searched() -> str:
    """What the site's search reads of the configuration."""
    return " ".join(" ".join(reference_pages().values()).lower().split())


def test_the_configuration_reference_is_what_the_sections_say() -> None:
    pages = reference_pages()
    assert {name: (DOCS / name).read_text() for name in pages} == pages, "run scripts/make_config_reference.py"
    assert {f"configuration/{page.name}" for page in (DOCS / "configuration").iterdir()} < pages.keys()


def test_every_key_has_a_place_of_its_own_that_the_first_page_leads_to() -> None:
    pages = reference_pages()
    places = [f"{name}#{anchor}" for name in pages for anchor in re.findall(r'<a id="([^"]+)">', pages[name])]
    own = {key.name for key in keys() if not key.name.startswith(("validation.data.N.", "conditioning.N."))}
    assert len(places) == len(set(places)) >= len(own)
    assert own <= {place.partition("#")[2] for place in places}
    links = set(re.findall(r"\((configuration/[\w/]+\.md#[^)]+)\)", pages["configuration.md"]))
    elsewhere = ("configuration.md", "configuration/prompts.md", "configuration/preparation.md")
    assert {place for place in places if not place.startswith(elsewhere)} <= links


FIELD_WORDS = (
    "network", "full fine-tuning", "lr_scheduler", "learning rate schedule", "effective batch size", "batch size per device",
    "gradient accumulation", "gradient clipping", "max_grad_norm", "timestep sampling", "timestep shift", "flow shift",
    "sigmas", "validation loss", "first-frame conditioning", "image conditioning dropout", "control LoRA", "control type",
    "conditioning frames", "trigger word", "instance token", "augmentations", "checkpoints_total_limit", "save_total_limit",
    "early stopping", "mixed precision", "EMA", "VRAM", "block swapping", "quantization", "network_dim", "learning_rate",
    "gradient_accumulation_steps", "resolution",
)  # fmt: skip
"""What people of the field search for."""


@pytest.mark.parametrize("word", FIELD_WORDS)
def test_a_search_in_the_configuration_pages_finds_the_word_of_the_field(word: str) -> None:
    assert re.search(rf"\b{word.lower()}\b", searched())


@pytest.mark.parametrize("name", ["choosing.md", "choosing_sources.md"])
def test_the_pages_on_choosing_settings_are_what_the_recipes_say(name: str) -> None:
    page = (DOCS / name).read_text()
    assert load_script("make_choosing").filled(page) == page, "run scripts/make_choosing.py"
    assert page.count("<!-- table: ") >= 1


@pytest.mark.parametrize("text, suffix", configurations())
def test_configurations_in_the_documentation_are_valid(text: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"config{suffix}").write_text(text)
    load_config(tmp_path / f"config{suffix}")


def test_there_are_configurations_to_check() -> None:
    assert {str(parameter.id).partition("-")[0] for parameter in configurations()} >= {
        "README.md",
        "docs/guide/first_run.md",
    }


def test_every_public_name_is_documented() -> None:
    rows = re.findall(r"^\| `(\w+)", (DOCS / "python.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(finetrainers.__all__)


def test_every_command_is_documented() -> None:
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    headings = re.findall(r"^## (\w+)", (DOCS / "cli.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(commands.choices)


def test_the_page_of_facts_is_what_stands_under_them() -> None:
    script = load_script("make_adapter_tables")
    assert script.PAGE.read_text() == script.page(), "run scripts/make_adapter_tables.py"
    assert "`is_fixed_length = False`" in script.page()


def test_schema_and_page_of_events_are_what_the_classes_say() -> None:
    script = load_script("make_events_reference")
    assert script.SCHEMA.read_text() == script.schema_text(), "run scripts/make_events_reference.py"
    assert script.PAGE.read_text() == script.page_text(), "run scripts/make_events_reference.py"
    assert script.REPORT_PAGE.read_text() == script.report_page_text(), "run scripts/make_events_reference.py"


def test_the_lists_of_events_agree_with_the_schema() -> None:
    page = (DOCS / "events.md").read_text()
    sections = dict(re.findall(r"^## (\w+)$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    events = SCHEMA["properties"]["event"]["enum"]
    assert list(sections) == events
    for event in events:
        definition = SCHEMA["$defs"][event]
        assert fields_of(sections[event]) == rows_of(definition), event
        assert definition["description"] in sections[event]
    assert fields_of(page.partition("## All events")[2].partition("\n## ")[0]) == rows_of(SCHEMA)


def fields_of(text: str) -> list[tuple[str, ...]]:
    found = re.findall(r"^- \*\*`(\w+)`\*\* \(.*?(, \*sometimes\*)?\): (.*)$", text, re.MULTILINE)
    return [(name, "sometimes" if sometimes else "always", sentence) for name, sometimes, sentence in found]


def rows_of(definition: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (name, "always" if name in definition["required"] else "sometimes", field["description"])
        for name, field in definition["properties"].items()
    ]


@pytest.mark.parametrize(
    "fields, is_valid",
    [
        ({"event": "checkpoint", "step": 5, "directory": "/runs/a"}, True),
        ({"event": "checkpoint", "step": 5}, False),
        ({"event": "checkpoint", "step": 5, "directory": "/runs/a", "new": 1}, True),
        ({"event": "stage", "stage": "planning", "seconds": "nan"}, False),
        ({"event": "validation", "step": 0, "directory": "/runs/a", "held_out_loss": "inf"}, True),
        ({"event": "validation", "step": 0, "directory": "/runs/a", "held_out_loss": "high"}, False),
        ({"event": "surprise"}, False),
    ],
)
def test_the_schema_of_events_tells_right_from_wrong(fields: dict[str, Any], is_valid: bool) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.check_schema(SCHEMA)
    assert validator.is_valid({"v": 1, "time": 1.5, **fields}) == is_valid


def test_the_events_of_a_run_have_the_documented_fields_and_no_others(tiny_flux: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text('[{"prompt": "a cat", "num_inference_steps": 1}]')
    validation = {"prompts": str(tmp_path / "prompts.json"), "held_out": 0.2}
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "data", 6), tmp_path, validation=validation)
    finetrainers.train(config_of(tree))
    with pytest.raises(finetrainers.CheckpointError):
        finetrainers.train(config_of(merged(tree, {"checkpoint": {"resume": 3}})))
    events = events_of(tree["output_dir"])
    lines = (Path(tree["output_dir"]) / "events.jsonl").read_text().splitlines()
    assert [to_json(read_event(line).tree()) for line in lines] == lines
    assert not any(isinstance(read_event(line), OtherEvent) for line in lines)
    assert {event["event"] for event in events} == set(SCHEMA["$defs"]) - {
        "number",
        "warning",
        "attention",
    }  # the last on a GPU alone
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for event in events:
        validator.validate(event)
        assert event.keys() <= SCHEMA["properties"].keys() | SCHEMA["$defs"][event["event"]]["properties"].keys()


def test_the_adapter_in_the_documentation_predicts_a_velocity(tmp_path: Path) -> None:
    (code, *_) = (t for language, t in FENCE.findall((DOCS / "add_a_model.md").read_text()) if language == "python")
    (tmp_path / "sd3.py").write_text(code)
    adapter_class = load_adapter(f"{tmp_path / 'sd3.py'}:StableDiffusion3")
    denoiser = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,  # the last block has fewer projections
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        pos_embed_max_size=8,
    )
    adapter = adapter_class({"block_out_channels": [8, 8, 8, 8], "latent_channels": 4}, dict(denoiser.config))
    assert adapter.grid.nearest((1, 70, 90)) == (1, 64, 96)
    x = torch.randn(2, *adapter.grid.latent_shape((1, 32, 48)))
    prompt = Prompt({"prompt_embeds": torch.randn(2, 3, 16), "pooled_prompt_embeds": torch.randn(2, 8)}, fps=torch.zeros(2))
    assert adapter.denoise(denoiser, x, torch.rand(2, 1), prompt).shape == x.shape
    names = [name for name, _ in denoiser.named_modules()]
    assert all(any(name.endswith(f".{target}") for name in names) for target in adapter.lora_targets)
    assert adapter.input_layer in names


# -- the pages on control ---------------------------------------------------------------------------------------------

CONTROL_PAGES = {page.stem: page.read_text() for page in sorted((DOCS / "trainer").glob("control*.md"))}
CONTROL = "\n".join(CONTROL_PAGES.values())


def test_the_pages_on_control_have_all_signals_keys_and_columns() -> None:
    signals = CONTROL_PAGES["control-data"].partition("## Signals")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w.:]+)` \|", signals, re.MULTILINE)
    assert set(rows) - {"signal"} == {*SIGNALS, "file.py:function"}
    frames = CONTROL_PAGES["control-frames"].partition("## Latent frames")[2].partition("\n## ")[0]
    _, *kinds = re.findall(r"^\| `(\w+)`", frames, re.MULTILINE)
    assert kinds == list(ChannelConcatConfig.model_fields["frames"].annotation.__args__)  # type: ignore[union-attr]
    assert all(re.search(rf"`(conditioning\.)?{key}\b", CONTROL) for key in ChannelConcatConfig.model_fields)
    columns = re.sub(r"\s+", " ", CONTROL_PAGES["control-data"])
    assert f"{', '.join(f'`{name}`' for name in CONTROL_COLUMNS[:-1])} and `{CONTROL_COLUMNS[-1]}` is taken" in columns
    for key in ("blur_sigma", "downscale_factor", "canny_low", "canny_high"):
        assert re.search(rf"`{key}`[^(|]*\({ChannelConcatConfig.model_fields[key].default:g}\)", signals), key


def test_the_function_on_the_pages_on_control_is_a_signal(tmp_path: Path) -> None:
    (code,) = (text for language, text in FENCE.findall(CONTROL) if language == "python" and text.startswith("# signals.py"))
    (tmp_path / "signals.py").write_text(code)
    section = ChannelConcatConfig(kind="channel_concat", signal=f"{tmp_path}/signals.py:poster")
    (stream,) = build_conditioning(section).streams
    signal = stream.signal
    assert signal is not None
    frames = torch.arange(2 * 8 * 16 * 3).remainder(256).to(torch.uint8).view(2, 8, 16, 3)
    assert set(signal(frames).unique().tolist()) == {0, 85, 170, 255}


@pytest.mark.parametrize(
    "base, weights, pipeline, settings, file",
    [
        (
            "black-forest-labs/FLUX.1-dev",
            "/home/me/runs/flux-depth/weights/step-005000",
            "FluxControlPipeline",
            {"in_channels": 128, "out_channels": 64},
            "flux-depth-step005000.safetensors",
        ),
        ("THUDM/CogView4-6B", "me/edges", "CogView4ControlPipeline", {"in_channels": 32}, "edges-step003000.safetensors"),
    ],
)
def test_the_snippets_on_the_pages_on_control_are_those_of_the_card(
    base: str, weights: str, pipeline: str, settings: dict[str, int], file: str
) -> None:
    """Those of the card are run by tests/test_control.py; the page may break their lines elsewhere."""
    facts = {"transformer": ExportFacts("transformer", pipeline, torch.bfloat16, settings, pipeline, file)}
    card = ast.dump(ast.parse(build_tuning(LoraConfig()).snippet(base, weights, facts)))
    assert card in [ast.dump(ast.parse(text)) for language, text in FENCE.findall(CONTROL) if language == "python"]


# -- length and place of the pages ---------------------------------------------------------------------------------------

FIVE_MINUTES = 900
"""Words that one reads in about five minutes."""
HALF_A_PAGE = 300
"""Words of a decision."""


@pytest.mark.parametrize("name", CONTROL_PAGES)
def test_a_page_on_control_is_read_in_five_minutes(name: str) -> None:
    assert len(CONTROL_PAGES[name].split()) <= FIVE_MINUTES
    assert name == "control" or f"({name}.md" in CONTROL_PAGES["control"], "the first page leads to all others"


@pytest.mark.parametrize("page", sorted((DOCS / "decisions").glob("*.md")), ids=lambda page: page.stem)
def test_a_decision_is_half_a_page(page: Path) -> None:
    assert len(page.read_text().split()) <= HALF_A_PAGE


def test_every_log_is_named_by_a_decision_and_leads_back() -> None:
    logs = sorted((ROOT / "research").glob("*.md"))
    assert logs
    for log in logs:
        decisions = [page for page in (DOCS / "decisions").glob("*.md") if f"`research/{log.name}`" in page.read_text()]
        assert decisions, f"no decision names {log.name}"
        assert all(f"(../docs/decisions/{page.name})" in log.read_text() for page in decisions)


def test_every_page_is_in_the_navigation() -> None:
    entries = re.findall(r"^ +- .+: ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(entries) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_every_option_of_sample_is_documented() -> None:
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    section = (DOCS / "cli.md").read_text().partition("## sample")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(--[\w-]+)`", section))
    options = {option for action in commands.choices["sample"]._actions for option in action.option_strings}
    assert told == options - {"-h", "--help"}


def test_every_option_of_launch_is_documented() -> None:
    section = (DOCS / "cli.md").read_text().partition("## launch")[2].partition("\n## ")[0]
    options = {option for action in launch_parser()._actions for option in action.option_strings}
    assert set(re.findall(r"^\| `(--[\w-]+)`", section, re.MULTILINE)) == options - {"-h", "--help"}


def test_every_option_of_export_is_documented() -> None:
    section = (DOCS / "cli.md").read_text().partition("## export")[2].partition("\n## ")[0]
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    options = {option for action in commands.choices["export"]._actions for option in action.option_strings}
    assert set(re.findall(r"^\| `(--[\w-]+)`", section, re.MULTILINE)) == options - {"-h", "--help"}


def test_every_option_of_check_is_documented() -> None:
    section = (DOCS / "cli.md").read_text().partition("## check")[2].partition("\n## ")[0]
    options = {option for action in check_parser()._actions for option in action.option_strings}
    assert set(re.findall(r"^\| `(--[\w-]+)`", section, re.MULTILINE)) == options - {"-h", "--help"}


def test_every_option_of_rehearse_is_documented() -> None:
    section = (DOCS / "cli.md").read_text().partition("## rehearse")[2].partition("\n## ")[0]
    options = {option for action in rehearse_parser()._actions for option in action.option_strings}
    assert set(re.findall(r"^\| `(--[\w-]+)`", section, re.MULTILINE)) == options - {"-h", "--help"}


def test_every_option_of_bench_is_documented() -> None:
    section = (DOCS / "cli.md").read_text().partition("## bench")[2].partition("\n## ")[0]
    options = {option for action in bench_parser()._actions for option in action.option_strings}
    assert set(re.findall(r"^\| `(--[\w-]+)`", section, re.MULTILINE)) == options - {"-h", "--help"}


# -- what a reader sees ---------------------------------------------------------------------------------------------------

LONGEST_CELL = 120
"""Characters, links counted by their text: about a line of a table."""
TECHNIQUES = "cards.md"
"""Generated: its cells are sets of keys, to copy."""
REFERENCE_PAGES = ("configuration", "cli.md", "events.md", "glossary.md")
"""Where one looks something up instead of reading from the beginning to the end."""


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_no_cell_of_a_table_is_a_paragraph(page: Path) -> None:
    rows = [row for row in without_code(page).splitlines() if row.startswith("|")]
    cells = [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    lengths = {cell: len(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell)) for cell in cells}
    assert page.name == TECHNIQUES or not [cell for cell, length in lengths.items() if length > LONGEST_CELL]


UNNATURAL = ("cannot be had", "mend or remove", "whole weights", "learned by heart", "the model hears")
"""Words that readers of the field stumbled over."""


def test_pages_and_messages_have_the_words_of_the_field() -> None:
    files = [*PAGES, *sorted((ROOT / "src").rglob("*.py"))]
    texts = {file: " ".join(file.read_text().lower().split()) for file in files}
    assert len(texts) > 500
    assert not {f"{file}: {word}" for file, text in texts.items() for word in UNNATURAL if word in text}


def test_files_that_are_left_out_of_the_fast_tests_are_there() -> None:
    names = (ROOT / "tests/slow_files.txt").read_text().split()
    assert names == sorted(set(names))
    assert not [name for name in names if not (ROOT / name).is_file()]
