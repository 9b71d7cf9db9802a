"""What is known of how far plans are from what was measured, and figures of the user's own machine."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetrainers.config import parse_config
from finetrainers.errors import ConfigError
from finetrainers.models import open_model
from finetrainers.training.bench.figures import Result
from finetrainers.training.cost import predict_step
from finetrainers.training.plan.figures import Errors
from finetrainers.training.plan.gpus import Gpu, gpu_of_device
from finetrainers.training.plan.speed import Machine

ALLOCATED, RESERVED, SECONDS = 0.05, 0.10, 0.20
"""Largest differences of steps that one H200 has measured, rounded up."""
SECONDS_ELSEWHERE = 0.5
"""What has to be expected of GPUs that nobody has measured."""
BASIS = "by steps that one H200 measured (docs/plan.md)"
PRODUCT = 0.80
"""Share of the stated operations a second that the H200's matrix product reached."""


def errors_of(*, is_measured: bool) -> Errors:
    """Say how far off a plan may be; seconds are known better of a machine, or a kind of GPU, that was measured."""
    seconds = SECONDS if is_measured else SECONDS_ELSEWHERE
    return Errors(allocated=ALLOCATED, reserved=RESERVED, seconds=seconds, basis=BASIS)


def read_measured(file: Path) -> Result:
    """Read what ``finetrainers bench --json`` has written.

    Raises:
        ConfigError: If it is no such file.
    """
    try:
        return Result.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--measured: {file} cannot be read: {error.strerror}") from None
    except (ValidationError, UnicodeDecodeError, json.JSONDecodeError):
        raise ConfigError(
            f"--measured: {file} has no figures of finetrainers bench; write it with finetrainers bench CONFIG --json {file}"
        ) from None


def machine_of(measured: Result, gpu: Gpu | None, family: str) -> Machine:
    """Make the machine on which figures were measured: as much slower than its kind as its product and its steps were.

    A family's kernels are faster or slower than others' on any machine: of another family, half of what the product does not
    explain is taken to be the machine's.

    Args:
        measured: The figures, at whose configuration steps are counted; the folder of that model has to be there.
        gpu: What was asked for: what it is, if its name does not say it.
        family: Of the model that is planned.

    Raises:
        ConfigError: If nothing is known of such a GPU, or if another was asked for.
    """
    known = gpu_of_device(measured.device)
    if known is not None and gpu is not None and gpu.tflops is not None and gpu != known:
        raise ConfigError(
            f"--measured: the figures are of {measured.device!r}, and --gpu is {gpu.name}; run finetrainers bench there, or "
            "leave out one of the two"
        )
    found = known or gpu
    if found is None or found.tflops is None:
        raise ConfigError(f"--measured: nothing is known of {measured.device!r}; name the kind of GPU with --gpu as well")
    config = parse_config(as_given(measured.config))
    model, machine = open_model(config.model), Machine(found, PRODUCT * found.tflops / measured.product.tflops)
    buckets = {own.bucket: own.seconds.step for own in measured.buckets}
    counted = sum(machine.seconds(predict_step(config, model, size).work) for size in buckets)
    slower = sum(buckets.values()) / counted
    return replace(machine, factor=machine.factor * (slower if model.adapter.name == family else slower**0.5))


def as_given(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a whole configuration what stands for a default: beside other keys, some of it would be refused."""
    kinds = ("kind", "name")
    skeleton: dict[str, Any] = {"output_dir": whole["output_dir"], "model": {"path": whole["model"]["path"]}}
    skeleton["data"] = [{key: data[key] for key in ("path", "buckets")} for data in whole["data"]]
    for section, keys in whole.items():
        if isinstance(keys, Mapping) and section != "model":
            skeleton[section] = {key: keys[key] for key in kinds if keys.get(key) is not None}
    defaults = parse_config(skeleton).model_dump(mode="json", by_alias=True)
    found: dict[str, Any] = dict(skeleton)
    for section, keys in whole.items():
        if isinstance(keys, Mapping):
            changed = {key: value for key, value in keys.items() if value != defaults[section].get(key)}
            found[section] = {**skeleton.get(section, {}), **changed}
        elif section != "data" and keys != defaults.get(section):
            found[section] = keys
    return found
