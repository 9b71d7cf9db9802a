"""Plans a run: counts its stages on the meta device, and says what they mean for a GPU, a bill and a disk."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from finetrainers.config import Bucket, Config
from finetrainers.config.syntax import dump_yaml
from finetrainers.config.validation import ValidationConfig
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.models import Model, open_model
from finetrainers.optim.optimizers import check_optimizer
from finetrainers.sampling.prompts import read_prompts
from finetrainers.training.auto import settle
from finetrainers.training.checks.parts import check_buckets, check_computation, check_conditioning, check_tuning
from finetrainers.training.checks.sharing import check_sharing
from finetrainers.training.cost import StepCost, collected, predict_step
from finetrainers.training.fit.choice import USABLE, as_recorded
from finetrainers.training.fit.sets import with_open_blocks, with_techniques
from finetrainers.training.plan.devices import (
    between,
    layout_of,
    num_gpus,
    on_one_of,
    shared_cost,
    shared_usage,
    units_of_run,
)
from finetrainers.training.plan.disk import Leaves
from finetrainers.training.plan.figures import Between, Planned, Run, Step, Technique
from finetrainers.training.plan.gpus import Gpu
from finetrainers.training.plan.items import Items, count_items, with_estimated_steps
from finetrainers.training.plan.measured import errors_of, machine_of, read_measured
from finetrainers.training.plan.search import Found, search
from finetrainers.training.plan.smaller import smaller_keys
from finetrainers.training.plan.speed import Machine
from finetrainers.training.plan.stages import Counted, Passes, count_stages
from finetrainers.training.plan.windows import with_windows
from finetrainers.training.user_code import check_user_code

HOUR = 3600
UNKNOWN = Gpu("unknown", 0)
MEASURED = "H200"
"""GPU to whose steps speeds were fitted."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a plan is to say besides what the configuration does."""

    gpu: Gpu | None = None
    gpus: int | None = None
    price: float | None = None
    """Of one GPU, an hour."""
    items: int | None = None
    measured: Path | None = None
    say: Callable[[str], None] = print


def plan(config: Config, asked: Asked) -> Planned:
    """Plan a run; nothing is written, and no weights are asked for.

    Raises:
        ConfigError: If the configuration is impossible, or nothing fits on the GPU.
        ModelError: If the model is not there.
    """
    check_optimizer(config.optimizer, config.schedule)
    check_user_code(config)
    asked_for = settle(config).config
    config = as_recorded(asked_for)
    if config is not asked_for:
        asked.say(f"the run in {config.output_dir} continues with the techniques that it began with")
    model = open_model(config.model, config.memory)
    for check in (check_buckets, check_conditioning, check_computation, check_tuning):
        check(config, model)
    items = count_items(config, model) if asked.items is None else Items.of(config, asked.items)
    return _Planning(with_estimated_steps(config, items), model, asked, items, asked_for.memory.budget).planned()


class _Planning:
    """One plan in the making."""

    def __init__(self, config: Config, model: Model, asked: Asked, items: Items | None, budget: int | None) -> None:
        self.config, self.model, self.asked, self.items, self.budget = config, model, asked, items, budget
        self.layout = layout_of(config, num_gpus(config, asked.gpus))
        check_sharing(config, self.layout)
        self.machine = self._machine()
        self.limit = self._limit()
        if self.limit is not None and config.memory.resident_blocks == "auto":
            self.config = with_open_blocks(config)
        sizes = {size for data in config.data for size in resolve_buckets(data.buckets)}
        self.buckets = sorted(sizes, key=model.adapter.grid.num_tokens)

    def _limit(self) -> int | None:
        """Bytes that may be counted: of the GPU, or of less that ``memory.budget`` allows."""
        sizes = [] if self.asked.gpu is None else [self.asked.gpu.memory_bytes]
        sizes += [] if self.budget is None else [self.budget]
        return int(USABLE * min(sizes)) if sizes else None

    def _machine(self) -> Machine:
        if self.asked.measured is not None:
            self.asked.say("counting the step that was measured")
            return machine_of(read_measured(self.asked.measured), self.asked.gpu, self.model.adapter.name)
        return Machine(self.asked.gpu or UNKNOWN)

    def planned(self) -> Planned:
        """Count, and put all together."""
        asked, found = self.asked, self._search()
        config = self._settled(found)
        own = on_one_of(config, self.layout)
        asked.say("counting the step of the largest bucket")
        is_whole = self.layout.size == self.layout.replicate
        known = found.chosen.cost if found is not None and own.compile.kind == "none" and is_whole else None
        cost = self._shared(own, known or self._counted(own, self.buckets[-1]))
        asked.say("counting encoders, VAE and sampling")
        config, own, counted = self._staged(config, own, cost)
        steps = self._steps(own, cost)
        sharing = self._between(config)
        stages = counted.stages
        return Planned(
            family=self.model.adapter.name,
            gpu=None if asked.gpu is None else asked.gpu.name,
            limit=self.limit,
            gpus=self.layout.size,
            num_trained=cost.num_trained,
            stages=stages,
            steps=steps,
            run=self._run(config, counted, steps, sharing),
            disk=Leaves(config, self.model, self.buckets[-1], cost, self.items).disk(),
            between=sharing,
            techniques=self._techniques(found),
            fits=None if self.limit is None else all((own.allocated or 0) <= self.limit for own in stages),
            proposal=None if self.limit is None else written(config),
            errors=errors_of(is_measured=asked.measured is not None or self.machine.gpu.name == MEASURED),
        )

    def _search(self) -> Found | None:
        is_auto = self.config.memory.preset == "auto"
        if self.limit is None:
            if is_auto:
                self.asked.say("memory.preset: auto chooses by the GPU: name one with --gpu, or set memory.budget")
            return None
        if not is_auto and self.layout.size > self.layout.replicate:
            return None
        self.asked.say("counting sets of techniques, the fastest first")
        is_of_gpu = self.asked.gpu is not None and self.limit == int(USABLE * self.asked.gpu.memory_bytes)
        key = "--gpu" if is_of_gpu else "memory.budget"
        return search(self.config, self.model, self.limit, key=key, layout=self.layout)

    def _settled(self, found: Found | None) -> Config:
        """The run with what was chosen, as it was written otherwise."""
        if found is None:
            return with_techniques(self.config, {}) if self.config.memory.preset == "auto" else self.config
        return with_techniques(self.config, found.chosen.techniques)

    def _techniques(self, found: Found | None) -> tuple[Technique, ...]:
        return () if found is None else found.techniques(self.machine)

    def _counted(self, own: Config, bucket: Bucket) -> StepCost:
        with collected():
            return predict_step(own, self.model, bucket)

    def _stages(self, own: Config, cost: StepCost, before: Passes | None = None) -> Counted:
        with collected():
            passes = Passes.of(own, self.model, self.buckets[-1], before)
        encoded = Leaves(own, self.model, self.buckets[-1], cost, self.items).encoded()
        return with_windows(count_stages(own, self.model, cost, passes, processes=self.layout.size), own, cost, encoded)

    def _shared(self, own: Config, cost: StepCost) -> StepCost:
        """Cut a step to what one of several devices has of it."""
        if self.layout.size == self.layout.replicate:
            return cost
        units = units_of_run(own, self.model)
        prefetch, name = self.config.parallel.prefetch, own.optimizer.name
        usage = shared_usage(cost.usage, units, self.layout, prefetch=prefetch, optimizer=name)
        work = cost.work.divided(self.layout.context)
        return replace(cost, usage=usage, reserved_bytes=shared_cost(cost, usage), work=work)

    def _staged(self, config: Config, own: Config, cost: StepCost) -> tuple[Config, Config, Counted]:
        """Count the stages; what encodes and decodes is made smaller, key by key, where it does not fit."""
        counted, say_once = self._stages(own, cost), cache(self.asked.say)
        while self.limit is not None:
            keys = smaller_keys(own, self.config, counted.stages, self.limit, self.model, say=say_once)
            if not keys:
                break
            self.asked.say(f"counting them with {', '.join(f'{key}: {str(value).lower()}' for key, value in keys.items())}")
            config, own = with_techniques(config, keys), with_techniques(own, keys)
            counted = self._stages(own, cost, counted.passes)
        return config, own, counted

    def _steps(self, own: Config, cost: StepCost) -> tuple[Step, ...]:
        """Steps of the largest and, if there are several, of the smallest bucket."""
        steps = [self._step(self.buckets[-1], cost)]
        if len(self.buckets) > 1:
            self.asked.say("counting the step of the smallest bucket")
            smallest = self.buckets[0]
            steps.append(self._step(smallest, self._shared(own, self._counted(own, smallest))))
        return tuple(steps)

    def _step(self, bucket: Bucket, cost: StepCost) -> Step:
        parts = self.machine.parts(cost.work) if self.machine.is_known else {}
        return Step(
            bucket=bucket,
            tokens=self.model.adapter.grid.num_tokens(bucket),
            tflop=sum(cost.work.flop.values()) / 1e12,
            seconds=sum(parts.values()) if parts else None,
            parts=parts,
            link_bytes=cost.work.link_bytes,
        )

    def _between(self, config: Config) -> Between | None:
        if self.layout.size == 1:
            return None
        units = units_of_run(on_one_of(config, self.layout), self.model)
        gpu = self.asked.gpu or UNKNOWN
        return between(config, self.model, self.layout, units, bucket=self.buckets[-1], gpu=gpu)

    def _run(self, config: Config, counted: Counted, steps: tuple[Step, ...], sharing: Between | None) -> Run:
        count, price = config.train.steps, self.asked.price
        if not self.machine.is_known:
            return Run(steps=count, seconds=None, encode_seconds=None, validation_seconds=None, price=price, cost=None)
        step = self._mean_seconds(steps) + (0.0 if sharing is None or sharing.seconds is None else sharing.seconds)
        training, encoding = count * step, self._encode_seconds(config, counted)
        validating = self._validation_seconds(config, counted)
        total = training + (encoding or 0.0) + validating
        return Run(
            steps=count,
            seconds=training,
            encode_seconds=encoding,
            validation_seconds=validating,
            price=price,
            cost=None if price is None else price * self.layout.size * total / HOUR,
        )

    def _mean_seconds(self, steps: tuple[Step, ...]) -> float:
        """Mean over all buckets; those that were not counted lie between the two that were, by a + b tokens^2."""
        largest, smallest = steps[0], steps[-1]
        assert largest.seconds is not None
        assert smallest.seconds is not None
        span = largest.tokens**2 - smallest.tokens**2
        slope = 0.0 if not span else (largest.seconds - smallest.seconds) / span
        tokens = [self.model.adapter.grid.num_tokens(size) for size in self.buckets]
        return sum(smallest.seconds + slope * (own**2 - smallest.tokens**2) for own in tokens) / len(tokens)

    def _encode_seconds(self, config: Config, counted: Counted) -> float | None:
        if self.items is None:
            return None
        text, media = (self.machine.seconds(own) for own in (counted.encode_text, counted.encode_media))
        return (text * self.items.count + media * self.items.views) / config.cache.batch_size / self.layout.size

    def _validation_seconds(self, config: Config, counted: Counted) -> float:
        own = config.validation
        times = 2 + (0 if own.every is None else max(0, (config.train.steps - 1) // own.every))
        denoise, decode = self.machine.seconds(counted.denoise), self.machine.seconds(counted.decode)
        samples = 2 if self.model.adapter.text.has_negative_prompt else 1
        once = 0.0
        if own.prompts is not None:
            requests = read_prompts(own.prompts, self.model, size=self.buckets[-1])
            once += sum(request.steps * denoise + decode for request in requests)
        count = None if self.items is None else self.items.count
        once += num_measured(own, count) * own.noise_levels * denoise / samples
        return times * once / self.layout.data_size


def num_measured(config: ValidationConfig, items: int | None) -> int:
    """Count the items whose loss a validation measures; of data sets of its own as many as it may.

    Args:
        config: Of the run.
        items: That it trains on, with those that are held out of them; None if nobody says.
    """
    held_out = config.max_items if config.has_held_out else 0
    if items is None:
        return held_out + config.items
    if config.held_out:
        held_out = min(held_out, max(1, int(config.held_out * items)))
    return held_out + min(config.items, items)


def written(config: Config) -> str:
    """Write a configuration as YAML, without the keys that stand for their defaults."""
    return dump_yaml(config.model_dump(mode="json", by_alias=True, exclude_unset=True))
