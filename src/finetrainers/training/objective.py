"""The objective of a run: what is configured, with the family's defaults."""

from dataclasses import replace

from finetrainers.config import Config
from finetrainers.config.objective import KINDS
from finetrainers.config.user_code import UserCode, read_user_code
from finetrainers.data.streams import Stream
from finetrainers.errors import ConfigError
from finetrainers.models import Model
from finetrainers.models.noise import NoiseLevels, ResolutionShift
from finetrainers.objectives import OBJECTIVES
from finetrainers.objectives.base import Objective
from finetrainers.objectives.diffusion import Diffusion
from finetrainers.objectives.flow import FlowMatching
from finetrainers.objectives.own import OwnObjective

SETTING = "objective.kind"


def build_objective(config: Config, model: Model) -> Objective:
    """Turn the ``objective`` section into its implementation, with the family's defaults.

    Raises:
        ConfigError: If the family cannot do what is asked, or the user's own cannot be loaded.
    """
    family, kind = family_objective(config, model), config.objective.kind
    if kind == "auto":
        return family
    code = read_objective(config)
    own = OBJECTIVES[kind] if code is None else _load(code)
    _check_base(own, config)
    return own.configured(family, config.objective)


def read_objective(config: Config) -> UserCode | None:
    """Read the source of an objective of the user's own; None where there is none.

    Raises:
        ConfigError: If it cannot be read.
    """
    place = config.objective.kind
    return None if place in KINDS else read_user_code(SETTING, place)


def check_objective(config: Config) -> None:
    """Load an objective of the user's own, if there is one.

    Raises:
        ConfigError: If it cannot be loaded.
    """
    code = read_objective(config)
    if code is not None:
        _load(code)


def _load(code: UserCode) -> type[OwnObjective]:
    """Load an objective of the user's own.

    Raises:
        ConfigError: If the file has none of this name, or not a whole one.
    """
    own = code.load_class(OwnObjective)  # type: ignore[type-abstract]
    streams: object = own.streams
    if not (isinstance(streams, tuple) and all(isinstance(stream, Stream) for stream in streams)):
        raise ConfigError(
            f"{SETTING}: {code.file}: {code.name}.streams is no tuple of Stream; write streams = (Stream(...),)"
        )
    return own


def _check_base(own: type[OwnObjective], config: Config) -> None:
    """Refuse an objective that compares with the base model where the tuning leaves none.

    Raises:
        ConfigError: Naming the key.
    """
    changing = [] if config.control is None else [f"{config.condition_key(config.control.kind)}.kind: {config.control.kind}"]
    changing += ["tuning.kind: full"] if config.tuning.kind == "full" else []
    if own.needs_base and changing:
        name = config.objective.kind.rpartition(":")[2]
        raise ConfigError(
            f"{SETTING}: {name} compares with the base model, of which {changing[-1]} "
            "leaves nothing: it trains weights of the model itself; set an adapter alone, or another objective"
        )


def family_objective(config: Config, model: Model) -> FlowMatching:
    """Make the objective of the family's authors, as it is configured.

    Raises:
        ConfigError: If the family cannot do what is asked.
    """
    wanted, adapter = config.objective, model.adapter
    levels = adapter.training.noise_levels
    if wanted.noise_levels != "auto":
        levels = NoiseLevels(
            wanted.noise_levels, logit_mean=wanted.logit_mean, logit_std=wanted.logit_std, mode_scale=wanted.mode_scale
        )
    levels = replace(levels, shift=_shift(config, model), between=model.denoisers.noise_range, cuts=model.denoisers.cuts)
    if adapter.training.prediction == "v":
        if wanted.weighting != "none":
            raise ConfigError(f"objective.weighting: {adapter.name} is weighted by 1 / (1 - alpha_bar); remove it")
        alphas = model.pretrained.load("scheduler").alphas_cumprod
        return Diffusion(noise_levels=levels, alphas_cumprod=tuple(alphas.double().tolist()))
    return FlowMatching(noise_levels=levels, weighting=wanted.weighting)


def _shift(config: Config, model: Model) -> float | ResolutionShift:
    """Settle how noise levels are shifted: as is configured, as the family's authors did, or as the scheduler does."""
    adapter = model.adapter
    shift = adapter.training.shift if config.objective.shift == "auto" else config.objective.shift
    if shift == "scheduler":
        is_dynamic = adapter.scheduler.get("use_dynamic_shifting")
        name = "flow_shift" if adapter.scheduler.get("use_flow_sigmas") else "shift"  # as UniPC has it, or Euler
        shift = "resolution" if is_dynamic else float(adapter.scheduler.get(name, 1.0))
    return adapter.resolution_shift() if shift == "resolution" else float(shift)
