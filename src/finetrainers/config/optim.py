"""The ``optimizer`` and ``schedule`` sections: what turns gradients into updates."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from finetrainers.config.base import AUTO, RefusedKeyError, Section
from finetrainers.config.user_code import is_place

OwnOptimizer = Literal[
    "adamw", "adam", "sgd", "adamw_8bit", "adamw_4bit", "adamw_fp8", "adafactor", "muon", "prodigy", "adamw_schedule_free"
]
REGISTRY = "pytorch_optimizer:"
"""Begins the names of optimizers that the package of this name knows."""
ONE_BY_ONE = (
    "adabelief", "adan", "ademamix", "adopt", "came", "laprop", "lion", "mars", "radam", "soap", "stableadamw", "tiger",
)  # fmt: skip
"""Names of the registry whose update of a weight depends on that weight alone."""
Option = str | bool | int | float | tuple[float, ...]


class OptimizerConfig(Section):
    """The optimizer and its settings."""

    name: OwnOptimizer | str = "adamw"
    """Optimizer to use. adamw_8bit needs the extra bitsandbytes, adamw_4bit and adamw_fp8 torchao, prodigy prodigyopt,
    adamw_schedule_free schedulefree. With the extra pytorch-optimizer, use any optimizer of that package, such as
    pytorch_optimizer:lion. Or give your own as file.py:Name, a torch.optim.Optimizer."""
    lr: Literal["auto"] | Annotated[float, Field(gt=0)] = AUTO
    """Peak learning rate. ``auto`` is that of the model's family for AdamW, for adapters or for all weights. Optimizers that
    are not variants of Adam need a value. For prodigy it is a factor, usually 1."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Decoupled weight decay (L2 penalty for adam and sgd)."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients; for sgd, the momentum. Not used by adafactor."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the mean of squared gradients. Not used by sgd and adafactor."""
    eps: float = Field(default=1e-8, gt=0)
    """Term added to the denominator. Not used by sgd and adafactor."""
    options: dict[str, Option] = {}
    """Additional arguments of muon (momentum, nesterov, ns_steps), of optimizers from pytorch_optimizer, such as {betas:
    [0.95, 0.98]}, and of your own optimizer. Each must be an argument of that optimizer."""
    masters: Literal["float32", "stochastic_rounding"] = "float32"
    """How bfloat16 weights receive small updates: through a float32 master copy, or without one by stochastic rounding,
    which is right on average and saves 4 bytes per weight."""
    state: Literal["device", "cpu"] = "device"
    """Where to keep master weights, gradients and the optimizer state, and where to run optimizer steps. With ``cpu`` they
    need no device memory, but with adamw they need 18 bytes of host memory per weight."""
    in_backward: bool = False
    """Update each weight as soon as its gradient is computed, then free the gradient. Needs ``train.clip_norm: .inf`` and a
    ``batch_size`` of one micro-batch."""

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        known = get_args(OwnOptimizer)
        if name in known or (name.startswith(REGISTRY) and name != REGISTRY) or is_place(name):
            return name
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"there is no optimizer {name!r}; {hint}known: {', '.join(map(repr, known))}, {REGISTRY}NAME, "
            "and your own as file.py:Name"
        )

    @property
    def is_of_user(self) -> bool:
        """Whether it is in a file of the user's."""
        return is_place(self.name)

    @property
    def lr_value(self) -> float:
        """Its number."""
        assert self.lr != AUTO, "what is left to the model is settled before anything reads it"
        return self.lr

    @property
    def is_of_registry(self) -> bool:
        """Whether the package pytorch_optimizer has it."""
        return self.name.startswith(REGISTRY)

    @property
    def registered_name(self) -> str:
        """Its name there, or none."""
        return self.name.removeprefix(REGISTRY).lower() if self.is_of_registry else ""

    def idle(self) -> Mapping[str, str]:
        is_elsewhere = self.is_of_registry or self.is_of_user
        name = "pytorch_optimizer" if is_elsewhere else self.name
        unread = {
            "sgd": ("beta2", "eps"),
            "adafactor": ("beta1", "beta2", "eps"),
            "pytorch_optimizer": ("beta1", "beta2", "eps"),
        }.get(name, ())
        way_out = "give what its constructor takes in options, or remove it" if is_elsewhere else "remove it"
        found = dict.fromkeys(unread, f"with name: {self.name}; {way_out}")
        if name not in ("muon", "pytorch_optimizer"):
            found["options"] = f"with name: {self.name}; remove it"
        return found

    @model_validator(mode="after")
    def _has_own_lr(self) -> "OptimizerConfig":
        is_found = self.name == "prodigy" or self.registered_name.startswith(("dadapt", "prodigy"))
        if is_found and self.lr == AUTO:
            raise RefusedKeyError("lr", f"auto has no factor for name: {self.name}; set one, usually 1")
        return self

    @model_validator(mode="after")
    def _steps_as_it_can(self) -> "OptimizerConfig":
        is_rounded = self.masters == "stochastic_rounding"
        if self.state == "cpu" and self.in_backward:
            raise RefusedKeyError(
                "in_backward", "true saves nothing with state: cpu, which leaves no gradient on the device"
            )
        if self.state == "cpu" and is_rounded:
            raise RefusedKeyError(
                "masters", f"{self.masters} saves nothing with state: cpu, where master weights take no device memory"
            )
        for key, value, is_asked in (("in_backward", "true", self.in_backward), ("masters", self.masters, is_rounded)):
            is_unknown = self.is_of_user or (self.is_of_registry and self.registered_name not in ONE_BY_ONE)
            if is_asked and (self.name == "prodigy" or is_unknown):
                raise RefusedKeyError(
                    key, f"{value} updates weights one by one, and {self.name} is not known to allow that; set another name"
                )
        if is_rounded and self.name == "adamw_schedule_free":
            raise RefusedKeyError(
                "masters", f"{self.masters} would round the second set of weights that {self.name} keeps; set float32"
            )
        return self


class ScheduleConfig(Section):
    """The learning rate schedule (lr_scheduler) over the optimizer steps of the run."""

    name: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"] = "constant"
    """Shape after the warm-up. All but constant fall towards 0 at the last step."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps over which the learning rate rises from 0 to its peak."""
    cycles: int = Field(default=1, ge=1)
    """Number of cycles of cosine_with_restarts."""
    power: float = Field(default=1.0, gt=0)
    """Exponent of polynomial."""

    def idle(self) -> Mapping[str, str]:
        owners = {"cycles": "cosine_with_restarts", "power": "polynomial"}
        return {
            key: f"with name: {self.name}; set name: {owner}, or remove it"
            for key, owner in owners.items()
            if self.name != owner
        }
