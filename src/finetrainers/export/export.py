"""``finetrainers export``: from weights to the files that other programs read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file

from finetrainers.config import Config
from finetrainers.errors import ConfigError
from finetrainers.export.base import Base, base_of, needed
from finetrainers.export.changes import Change
from finetrainers.export.combine import combined
from finetrainers.export.extract import extract
from finetrainers.export.formats import Keys, Weights, make_keys
from finetrainers.export.full import FUSED, write_full
from finetrainers.export.header import header, network
from finetrainers.export.lowrank import Left
from finetrainers.export.names import FAMILIES, family_of_class
from finetrainers.export.source import Adapter, Source, component_settings, open_source, recorded_family
from finetrainers.export.writing import cast, some, write_tensors
from finetrainers.files.whole import to_json
from finetrainers.tuning.exported import FIRST, SECOND, SETTINGS

USUAL_DTYPE = "bf16"
"""Of adapters: what programs that generate compute in, at half the size of float32."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be exported, and how."""

    sources: Sequence[Path]
    """Runs, or folders or files of weights; several are added up."""
    to: str
    step: int | None = None
    dtype: str | None = None
    output: Path | None = None
    factors: Sequence[float] | None = None
    """What each source is multiplied by."""
    rank: int | None = None
    """Of the LoRA that is made, whatever the sources are."""
    base: str | None = None
    """Folder or Hub id of the base, where it is not that of the run."""
    family: str | None = None
    """Where the weights do not say it."""
    leave_out: bool = False
    """Write files without what the format cannot carry."""


@dataclass(slots=True)
class Exported:
    """What came of it."""

    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What users should know of them."""


def export(asked: Asked) -> Exported:
    """Write what is asked for.

    Raises:
        ConfigError: If it cannot be written so; the message says what can.
        ModelError: If the base is not there.
    """
    return export_sources(asked, [open_source(path, asked.step) for path in asked.sources])


def export_sources(asked: Asked, sources: Sequence[Source]) -> Exported:
    """As ``export``, of weights that were found already."""
    factors = _factors(asked)
    _check_together(sources)
    base = base_of(sources[0].config, asked.base)
    full = next((source for source in sources if source.full), None)
    if full is not None and (len(sources) > 1 or factors != [1.0]):
        raise ConfigError(f"export: {full.path} has full weights, which are added to nothing; name it alone")
    if asked.to == FUSED or (full is not None and asked.rank is None and asked.to == "diffusers"):
        return _export_full(asked, sources, factors, base)
    if full is not None and asked.rank is None:
        raise ConfigError(
            f"--to {asked.to}: {full.path} has full weights; give --rank N for a LoRA of what they differ by, or take "
            "--to diffusers"
        )
    result = Exported()
    components = tuple(dict.fromkeys(name for source in sources for name in (*source.adapters, *source.full)))
    for component in components:
        adapter = _adapter(asked, sources, factors, base, component=component, notes=result.notes)
        file = _file(asked, sources, component, components)
        _write(file, asked, sources, factors, base, component=component, adapter=adapter, notes=result.notes)
        result.files.append(file)
    return result


def _check_together(sources: Sequence[Source]) -> None:
    """Refuse adapters of different models.

    Raises:
        ConfigError: If the same layer has other shapes, or no layer is the same.
    """
    first = sources[0]
    for other in sources[1:]:
        for component in first.adapters.keys() & other.adapters.keys():
            ours, theirs = first.adapters[component].changes, other.adapters[component].changes
            layer = next((name for name in ours.keys() & theirs.keys() if ours[name].shape != theirs[name].shape), None)
            families = recorded_family(first), recorded_family(other)
            if layer is not None or (None not in families and len(set(families)) > 1):
                raise ConfigError(
                    f"export: {first.path} and {other.path} are adapters of different models; add up those of one"
                )


def _factors(asked: Asked) -> list[float]:
    if asked.factors is None:
        return [1.0] * len(asked.sources)
    if len(asked.factors) != len(asked.sources):
        raise ConfigError(
            f"--weights: {len(asked.factors)} numbers for {len(asked.sources)} sources; give one for each, in their order"
        )
    return list(asked.factors)


def _is_made(asked: Asked) -> bool:
    """Whether what is written is not what was trained, but made of it."""
    return len(asked.sources) > 1 or asked.rank is not None or _factors(asked) != [1.0]


def _adapter(
    asked: Asked, sources: Sequence[Source], factors: Sequence[float], base: Base | None, *, component: str, notes: list[str]
) -> Adapter:
    """What is written of a component: an adapter as it was trained, or one that is made."""
    if not _is_made(asked):
        return sources[0].adapters[component]
    left = Left()
    full = sources[0].full.get(component)
    if full is not None and asked.rank is not None:
        own = needed(base, "--rank is of what differs from it")
        found = extract(full, component, own, rank=asked.rank, left=left)
        changes: Mapping[str, Change] = dict(found.changes)
        if found.others:
            number = len(found.others)
            notes.append(f"{component}: {number} tensors changed that no LoRA holds, such as {some(found.others)}")
    else:
        pairs = zip(sources, factors, strict=True)
        added = [(source.adapters[component].changes, factor) for source, factor in pairs if component in source.adapters]
        changes = combined(added, _reader(base, component), rank=asked.rank, left=left)
    if left.whole:
        layer, share = left.worst
        notes.append(
            f"{component}: rank {asked.rank} leaves {left.share:.2%} of the change, by norm; most of {layer}, {share:.2%}"
        )
    return Adapter(changes)


def _reader(base: Base | None, component: str) -> Weights:
    return lambda layer: needed(base, "DoRA depends on the base's weights").weight(component, layer)


def _write(
    file: Path,
    asked: Asked,
    sources: Sequence[Source],
    factors: Sequence[float],
    base: Base | None,
    *,
    component: str,
    adapter: Adapter,
    notes: list[str],
) -> None:
    """Write the file of a component's adapter."""
    family = asked.family or _family(sources[0], base, component)
    keys = make_keys(asked.to, adapter, family, _reader(base, component))
    _check_lost(asked, sources, component, keys, notes)
    names = FAMILIES.get(family or "")
    if names is not None and asked.to == "comfyui" and names.in_comfyui:
        notes.append(names.in_comfyui)
    about = header(sources, factors, component, names=names, to=asked.to, changed=_is_made(asked))
    about |= network(adapter.changes, names)
    if keys.settings:
        about[SETTINGS] = to_json(keys.settings)
    write_tensors(file, cast(keys.tensors, asked.dtype or USUAL_DTYPE), about)


def _family(source: Source, base: Base | None, component: str) -> str | None:
    """Family of weights, as far as anything says it."""
    recorded = recorded_family(source)
    if recorded is not None:
        return recorded
    if component in source.full:
        return family_of_class(component_settings(source.full[component]).get("_class_name"))
    return None if base is None else family_of_class(base.settings(component).get("_class_name"))


def _check_lost(asked: Asked, sources: Sequence[Source], component: str, keys: Keys, notes: list[str]) -> None:
    """Refuse what the format cannot carry, or tell that it is left out.

    Raises:
        ConfigError: If it may not be left out, or if nothing is left.
    """
    lost = dict(keys.lost)
    for source in sources:
        layers = source.adapters[component].layers if component in source.adapters else None
        if layers is not None:
            lost |= dict.fromkeys(load_file(layers), "it was trained in full along with the adapter, for the control")
    if not lost:
        return
    first = min(lost)
    what = f"{component}: {len(lost)} layers have no place in it: {some(lost)} ({first}: {lost[first]})"
    if not keys.tensors:
        raise ConfigError(f"--to {asked.to}: {what}; nothing would be left")
    if not asked.leave_out:
        raise ConfigError(
            f"--to {asked.to}: {what}; --leave-out writes the rest, which may generate something else; "
            "--to fused carries all of it"
        )
    notes.append(f"left out of {what}")


def _file(asked: Asked, sources: Sequence[Source], component: str, components: Sequence[str]) -> Path:
    """Where a component's file goes: its name says run and step."""
    suffix = expert_suffix(sources[0].config, component, components)
    if asked.output is not None and asked.output.suffix == ".safetensors":
        return asked.output.with_name(f"{asked.output.stem}{suffix if len(components) > 1 else ''}.safetensors")
    folder = asked.output or sources[0].folder / asked.to
    stem = "+".join(source.stem.removesuffix(suffix) for source in sources)  # a file of an expert has it already
    rank = "" if asked.rank is None else f"-rank{asked.rank}"
    return folder / f"{stem}{rank}{suffix}.safetensors"


def expert_suffix(config: Config | None, component: str, components: Sequence[str]) -> str:
    """What tells the files of a model's experts apart; nothing where there is one denoiser for all noise levels."""
    expert = None if config is None else config.model.expert
    if len(components) < 2 and component == FIRST and expert is None:
        return ""
    return {FIRST: "-high_noise", SECOND: "-low_noise"}.get(component, f"-{component}")


def _export_full(asked: Asked, sources: Sequence[Source], factors: Sequence[float], base: Base | None) -> Exported:
    """Write full weights: the base with adapters added, or those of a run of full tuning."""
    idle = {"--rank": asked.rank, "--family": asked.family, "--leave-out": asked.leave_out or None}
    idle |= {"--base": asked.base if sources[0].full else None}
    for name in (name for name, value in idle.items() if value is not None):
        raise ConfigError(f"{name}: has no effect on full weights; remove it")
    if asked.output is not None and asked.output.suffix == ".safetensors":
        raise ConfigError(f"--output: full weights are a folder, and {asked.output} has the name of a file; name a folder")
    names = "+".join(source.stem for source in sources)
    folder = asked.output or sources[0].folder / FUSED / names
    write_full(folder, sources, factors, base, dtype=asked.dtype)
    return Exported([folder])
