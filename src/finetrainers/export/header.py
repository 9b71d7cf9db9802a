"""What an exported file says of itself, for people and for programs that list models.

Names of ``modelspec`` are those of https://github.com/Stability-AI/ModelSpec, names of ``ss_`` those of kohya's tools. No
time and no folder is among them: equal exports write equal files.
"""

from collections.abc import Mapping, Sequence

from finetrainers.config import Config
from finetrainers.data.catalog.buckets import usual_bucket
from finetrainers.export.changes import Change, LowRank
from finetrainers.export.names import Names
from finetrainers.export.source import Source
from finetrainers.tuning.exported import SETTINGS

MODULES = {"flux": "networks.lora_flux", "wan": "networks.lora_wan"}
"""What kohya's tools load LoRA of a family with, where it is not the usual one."""
NOT_OF_THE_FILE = ("format", SETTINGS)
"""Of the header of what is exported: it does not hold for what is made of it."""


def header(
    sources: Sequence[Source], factors: Sequence[float], component: str, *, names: Names | None, to: str, changed: bool
) -> dict[str, str]:
    """Say what a file is.

    Args:
        sources: What it is made of.
        factors: What each is multiplied by.
        component: Of which it is.
        names: Of its family.
        to: Format of its keys.
        changed: Whether it is no longer what was trained, but made of it.
    """
    own = sources[0].adapters[component].metadata if component in sources[0].adapters else {}
    result = {name: value for name, value in own.items() if name not in NOT_OF_THE_FILE}
    named = names.for_kohya() if names is not None and to == "kohya" else names
    result["modelspec.implementation"] = "diffusers" if named is None or to == "diffusers" else named.implementation
    result["ss_output_name"] = sources[0].stem
    if changed:
        parts = [f"{factor:g} {source.stem}" for source, factor in zip(sources, factors, strict=True)]
        result["modelspec.title"] = " + ".join(parts)
        result["modelspec.merged_from"] = ", ".join(source.stem for source in sources)
    if names is not None and names.version:
        result["ss_base_model_version"] = names.version
    if sources[0].step is not None:
        result["ss_steps"] = str(sources[0].step)
    return result | ({} if sources[0].config is None else _training(sources[0].config, own))


def network(changes: Mapping[str, Change], names: Names | None) -> dict[str, str]:
    """What kohya's tools say of an adapter."""
    first = next(iter(changes.values()))
    ranks = [change.rank or 0 for change in changes.values()]
    module = "lycoris.kohya"
    if isinstance(first, LowRank):
        module = "networks.lora" if names is None else MODULES.get(names.family, "networks.lora")
    usual = max(set(ranks), key=ranks.count)
    alpha = next(change.scale * usual for change in changes.values() if (change.rank or 0) == usual)
    return {
        "ss_network_module": module,
        "ss_network_dim": str(usual),
        "ss_network_alpha": f"{alpha:g}",
    }


def _training(config: Config, own: Mapping[str, str]) -> dict[str, str]:
    """What the run was told; names of the user's own files without their folders."""
    _, height, width = usual_bucket(config.data[0].buckets)
    size = own.get("modelspec.resolution", f"{width}x{height}")  # as the run wrote it, which knew its model
    return {
        "ss_resolution": f"({size.replace('x', ', ')})",
        "ss_learning_rate": f"{config.optimizer.lr_value:g}",
        "ss_optimizer": str(config.optimizer.name).rpartition("/")[2],
        "ss_lr_scheduler": config.schedule.name,
        "ss_max_train_steps": str(config.train.steps),
        "ss_total_batch_size": str(config.train.batch_size),
        "ss_seed": str(config.seed),
    }
