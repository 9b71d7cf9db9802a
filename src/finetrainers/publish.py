"""What a run leaves for others: exported weights, a model card, a report, and the push to the Hub."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from finetrainers.checkpoint import step_directory, step_folders
from finetrainers.config import Config
from finetrainers.data.buckets import resolve_buckets
from finetrainers.errors import CheckpointError, ConfigError
from finetrainers.files import MANIFEST, to_json, whole_directory, write_whole
from finetrainers.loop import Trainer
from finetrainers.models import Model
from finetrainers.state import whole_tensor
from finetrainers.tuning import ExportFacts, Tuning
from finetrainers.validate import weights_in_use
from finetrainers.version import __version__

CARD_FILE = "README.md"
CARD = """# {name}

{what} of {base} for {task}, made with finetrainers.

- {steps} optimizer steps of {batch_size} samples on {num_samples} samples
{conditioning}{losses}
## Use

{snippet}{samples}"""


def export_weights(trainer: Trainer, config: Config, model: Model, tuning: Tuning) -> Path:
    """Write the weights that are meant for use into weights/step-000500, in diffusers' layout.

    Then those of the oldest steps beyond ``checkpoint.keep_weights`` are removed.

    Raises:
        CheckpointError: If they cannot be written.
    """
    directory = step_directory(config.output_dir / "weights", trainer.step)
    facts, metadata = export_facts(trainer, model), file_metadata(config, model, step=trainer.step)
    for name, parameter in trainer.denoiser.named_parameters():
        if parameter.requires_grad:
            whole_tensor(name, parameter)
    try:
        with whole_directory(directory) as temporary, weights_in_use(trainer):
            for component, part in model.denoisers.split(trainer.denoiser).items():
                own = replace(facts[component], metadata={**metadata, "finetrainers.component": component})
                tuning.export(part, temporary, own)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory}: the weights cannot be written: {error}; make room or mend it, and start the run again"
        ) from error
    keep = config.num_kept_weights
    others = [folder for folder in step_folders(directory.parent).values() if folder != directory]
    for folder in [] if keep is None else others[: max(0, len(others) + 1 - keep)]:
        _remove_exported(folder)
    return directory


def _remove_exported(directory: Path) -> None:
    """Remove the files that a run exported into a directory, and the directory unless it holds something else."""
    try:
        names = [*json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"], CARD_FILE, MANIFEST]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # no run made it, or not as a whole
        return
    for name in names:  # the manifest is the last: whatever stops this, the next time goes on
        if ".." not in Path(name).parts and not Path(name).is_absolute():
            (directory / name).unlink(missing_ok=True)
    for folder in [*sorted((f for f in directory.rglob("*") if f.is_dir()), reverse=True), directory]:
        with suppress(OSError):  # not empty
            folder.rmdir()


def export_facts(trainer: Trainer, model: Model) -> dict[str, ExportFacts]:
    """What the export of each trained component has to know."""
    facts = {}
    for component, part in model.denoisers.split(trainer.denoiser).items():
        settings = trainer.conditioning.exported_settings(part, model.adapter)
        facts[component] = ExportFacts(
            component, model.pipeline_class, trainer.dtype, settings, trainer.conditioning.drawing_class(model)
        )
    return facts


def file_metadata(config: Config, model: Model, *, step: int) -> dict[str, str]:
    """What an exported file says of itself, for people and for programs that list models.

    The names of ``modelspec`` are those of https://github.com/Stability-AI/ModelSpec. There is no time and no folder among
    them: equal runs write equal files.
    """
    base, kind = _base_name(config), config.tuning.kind
    control = "-control" if config.conditioning.takes_control else ""
    adapter = "" if kind == "full" else f"/{kind}"
    _, height, width = resolve_buckets(config.data[0].buckets)[0]
    triggers = ", ".join(dict.fromkeys(data.caption_prefix for data in config.data if data.caption_prefix))
    metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{model.adapter.architecture}{control}{adapter}",
        "modelspec.implementation": "diffusers",
        "modelspec.title": f"{base}, {triggers or 'tuned'} ({kind}, {step} steps)",
        "modelspec.resolution": f"{width}x{height}",
        "finetrainers.version": __version__,
        "finetrainers.base_model": base,
        "finetrainers.family": model.adapter.name,
        "finetrainers.task": model.task,
        "finetrainers.tuning": kind,
        "finetrainers.steps": str(step),
    }
    return metadata | ({"modelspec.trigger_phrase": triggers} if triggers else {})


def _base_name(config: Config) -> str:
    """Name the model that was begun from: where it is on this disk is nobody else's business."""
    base = config.model.path
    return Path(base).name if Path(base).is_dir() else base


def write_card(
    directory: Path,
    *,
    config: Config,
    model: Model,
    tuning: Tuning,
    exported: Mapping[str, ExportFacts],
    facts: Mapping[str, Any],
    repo: str | None,
) -> Path:
    """Write README.md, the model card, into a directory of weights, for the repository that they are pushed to, if any."""
    from huggingface_hub import ModelCardData

    base, name = config.model.path, _base_name(config)
    is_local = Path(base).is_dir()
    metadata = ModelCardData(
        base_model=None if is_local else base,
        library_name="diffusers",
        pipeline_tag=model.task,
        tags=[
            "diffusers-training",
            "finetrainers",
            model.adapter.name,
            config.tuning.kind,
            *(["control"] if config.conditioning.takes_control else []),
        ],
    )
    losses = "".join(f"- held-out loss at step {step}: {float(loss):.5f}\n" for step, loss in facts["held_out_losses"])
    pictures = "".join(f"- [{name}](samples/{name})\n" for name in facts["samples"])
    text = CARD.format(
        name=config.output_dir.name,
        what="Full-rank fine-tune" if config.tuning.kind == "full" else f"{config.tuning.kind} adapter",
        base=name if is_local else f"[{base}](https://huggingface.co/{base})",
        task=model.task,
        steps=facts["steps"],
        batch_size=config.train.batch_size,
        num_samples=facts["num_samples"],
        conditioning=_conditioning_line(config),
        losses=losses,
        snippet=_snippet(tuning, base if repo is None else name, repo or str(directory), exported),
        samples=f"\n## Samples\n\n{pictures}" if pictures else "",
    )
    card, text = directory / CARD_FILE, f"---\n{metadata.to_yaml()}\n---\n\n{text}"
    if not card.is_file() or card.read_text(encoding="utf-8") != text:
        write_whole(card, text)
    return card


def _conditioning_line(config: Config) -> str:
    """Say what the model is conditioned on besides the prompt: whoever draws has to make the same."""
    section = config.conditioning
    if not section.takes_control:
        return ""
    idle = section.idle()
    facts = {name: value for name, value in section.model_dump(mode="json").items() if name not in idle}
    facts["signal"] = facts["signal"].rpartition("/")[2]  # of a file of the user's, its name
    return f"- conditioning: {', '.join(f'{name}: {to_json(value)}' for name, value in facts.items())}\n"


def _snippet(tuning: Tuning, base: str, weights: str, exported: Mapping[str, ExportFacts]) -> str:
    """What to type to draw with the weights."""
    if any(own.drawing_class is None for own in exported.values()):
        command = "finetrainers sample RUN --prompt TEXT --control FILE"
        return f"diffusers has no pipeline for this control:\n\n```bash\n{command}\n```\n"
    return f"```python\n{tuning.snippet(base, weights, exported)}```\n"


def check_hub(config: Config) -> str:
    """Find the repository to push to, and that the token may; before anything is trained.

    Raises:
        ConfigError: If there is no token, or none that the Hub knows, or no Hub.
    """
    from huggingface_hub import HfApi

    with _hub_errors("log in with `hf auth login`, or set push_to_hub=false"):
        user = HfApi().whoami()["name"]
    return config.hub_repo or f"{user}/{config.output_dir.name}"


@contextmanager
def _hub_errors(way_out: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of the Hub's client, or of whichever HTTP library it uses in this version
        raise ConfigError(f"push_to_hub: the Hub refused or cannot be reached: {error}\nThe way out: {way_out}") from error


def push(repo: str, directory: Path, *, samples: Path | None, private: bool) -> str:
    """Push weights, card and samples; return the address of the commit.

    Raises:
        ConfigError: If the Hub refuses them.
    """
    with _hub_errors(f"the weights are in {directory}; push them with `hf upload {repo} {directory}`"):
        return _push(repo, directory, samples=samples, private=private)


def _push(repo: str, directory: Path, *, samples: Path | None, private: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    ignored = [MANIFEST]  # it vouches for this disk, and knows nothing of the card
    commit = api.upload_folder(
        repo_id=repo, folder_path=directory, commit_message="Weights from finetrainers", ignore_patterns=ignored
    )
    if samples is not None:
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=samples,
            path_in_repo="samples",
            commit_message="Samples from finetrainers",
            ignore_patterns=ignored,
        )
    return str(commit.commit_url)


def write_report(directory: Path, report: Mapping[str, Any]) -> Path:
    """Write report.json: what the run did, and what it left out."""
    file = directory / "report.json"
    write_whole(file, to_json(report, indent=1))
    return file


def read_events(directory: Path, kinds: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Read events.jsonl, or its events of some kinds; a line that a kill cut off is left out."""
    events = []
    marks = [f'"{kind}"'.encode() for kind in kinds or ()]
    with (directory / "events.jsonl").open("rb") as lines:  # as text, a U+2028 inside a string could end a line
        for line in lines:
            if kinds is not None and not any(mark in line for mark in marks):  # much faster than to parse it
                continue
            try:
                event = json.loads(line.decode(errors="replace"))  # a kill may cut a letter
            except json.JSONDecodeError:
                continue
            if kinds is None or event["event"] in kinds:
                events.append(event)
    return events
