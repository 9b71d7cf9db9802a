"""What a run leaves for others: exported weights, a model card, a report, and the push to the Hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetrainers.checkpoint import step_directory
from finetrainers.config import Config
from finetrainers.errors import CheckpointError, ConfigError
from finetrainers.files import MANIFEST, whole_directory, write_whole
from finetrainers.loop import Trainer
from finetrainers.models import Model
from finetrainers.tuning import Tuning
from finetrainers.validate import weights_in_use

CARD = """# {name}

{what} of [{base}](https://huggingface.co/{base}) for {task}, made with finetrainers.

- {steps} optimizer steps of {batch_size} samples on {num_samples} samples
{losses}
## Use

```python
{snippet}```
{samples}"""


def export_weights(trainer: Trainer, config: Config, model: Model, tuning: Tuning) -> Path:
    """Write the weights that are meant for use into weights/step-000500, in diffusers' layout.

    Raises:
        CheckpointError: If they cannot be written.
    """
    import diffusers

    directory = step_directory(config.output_dir / "weights", trainer.step)
    try:
        with whole_directory(directory) as temporary, weights_in_use(trainer):
            tuning.export(
                trainer.denoiser,
                temporary,
                pipeline_class=getattr(diffusers, model.pipeline_class),
                dtype=trainer.dtype,
            )
    except OSError as error:
        raise CheckpointError(f"{directory}: the weights cannot be written: {error}") from error
    return directory


def write_card(directory: Path, *, config: Config, model: Model, tuning: Tuning, facts: Mapping[str, Any]) -> Path:
    """Write README.md, the model card, into a directory of weights."""
    from huggingface_hub import ModelCardData

    base = config.model.path
    metadata = ModelCardData(
        base_model=base if not Path(base).is_dir() else None,
        library_name="diffusers",
        pipeline_tag=model.task,
        tags=["diffusers-training", "finetrainers", model.adapter.name, config.tuning.kind],
    )
    losses = "".join(f"- held-out loss at step {step}: {loss:.5f}\n" for step, loss in facts["held_out_losses"])
    pictures = "".join(f"- [{name}](samples/{name})\n" for name in facts["samples"])
    text = CARD.format(
        name=config.output_dir.name,
        what="Full-rank fine-tune" if config.tuning.kind == "full" else f"{config.tuning.kind} adapter",
        base=base,
        task=model.task,
        steps=facts["steps"],
        batch_size=config.train.batch_size,
        num_samples=facts["num_samples"],
        losses=losses,
        snippet=tuning.snippet(model.pipeline_class, base, config.hub_repo or str(directory)),
        samples=f"\n## Samples\n\n{pictures}" if pictures else "",
    )
    card = directory / "README.md"
    write_whole(card, f"---\n{metadata.to_yaml()}\n---\n\n{text}")
    return card


def check_hub(config: Config) -> str:
    """Find the repository to push to, and that the token may; before anything is trained.

    Raises:
        ConfigError: If there is no token, or none that the Hub knows.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        user = HfApi().whoami()["name"]
    except (LocalTokenNotFoundError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        raise ConfigError(
            f"push_to_hub: the Hub does not know you ({error}); log in with `hf auth login`, or set push_to_hub=false"
        ) from error
    return config.hub_repo or f"{user}/{config.output_dir.name}"


def push(repo: str, directory: Path, *, samples: Path | None, private: bool) -> str:
    """Push weights, card and samples; return the address of the commit."""
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
    write_whole(file, json.dumps(report, indent=1, ensure_ascii=False))
    return file


def read_events(directory: Path) -> list[dict[str, Any]]:
    """Read events.jsonl; a line that a kill cut off is left out."""
    events = []
    text = (directory / "events.jsonl").read_text(encoding="utf-8")
    for line in text.split("\n"):  # splitlines would cut at a U+2028 inside a string
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
