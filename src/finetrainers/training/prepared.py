"""A run whose data are known."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa

from finetrainers.conditioning import Conditioning, GivenFrames
from finetrainers.data.catalog.catalog import Catalog
from finetrainers.data.catalog.left_out import LeftOut
from finetrainers.data.order.choices import Choices
from finetrainers.data.order.jobs import SampleJob, TextJob
from finetrainers.data.order.mixture import Mixture, mixture
from finetrainers.data.order.order import Order
from finetrainers.data.order.plan import Plan
from finetrainers.data.order.written import WrittenOrder
from finetrainers.data.sources.items import Problem
from finetrainers.encoding.encoder import Encoder
from finetrainers.models import Model, Request
from finetrainers.objectives.base import Objective
from finetrainers.training.chapters import Chapters
from finetrainers.tuning.base import Size

MAX_CAPTIONED = 1_000_000
"""Items whose captions are hashed; of more it would take too long."""
CAPTIONS_AT_ONCE = 4096
"""Items whose captions are Python objects at a time."""


@dataclass(frozen=True)
class Prepared:
    """What is trained on, what is held out, what is generated, and what encodes all of it."""

    model: Model
    conditioning: Conditioning
    given_frames: GivenFrames
    objective: Objective
    encoder: Encoder
    plan: Plan
    order: Order
    held_out_plan: Plan | None
    max_held_out: int
    """Samples of it that are measured at most."""
    requests: tuple[Request, ...]
    size: Size
    """How much of what is trained would train, in weights."""
    num_items: int = 0
    """Samples to train on that are measured one by one at most."""
    left_out: tuple[LeftOut, ...] = ()
    """What turned out bad only when it was decoded or encoded, in this start of the run or in earlier ones."""
    chapters: Chapters | None = None
    """Where data sets are read shard by shard: plan and order are those of one of them."""

    def at(self, step: int) -> "Prepared":
        """Return the run with plan and order of the chapter that an optimizer step is in, if it has chapters."""
        if self.chapters is None:
            return self
        chapter = self.chapters.at(step, self.choices_of)
        if chapter.order is self.order:
            return self
        plan = replace(self.plan, catalog=chapter.catalog)
        return replace(self, plan=plan, order=chapter.order).without(self.left_out)

    def stop(self, num_steps: int) -> int:
        """Return the step before which the order is known, of so many steps of the run."""
        return min(num_steps, self.order.stop) if isinstance(self.order, WrittenOrder) else num_steps

    def mixture(self, num_steps: int) -> list[Mixture]:
        """Count what so many steps of the run show of each data set; with chapters, those that are known."""
        if self.chapters is None:
            return mixture(self.plan.choices, self.order, num_steps)
        return self.chapters.mixture(self.plan.choices, self.stop(num_steps))

    @property
    def samples_of_pass(self) -> int:
        """Samples of one pass over all data sets; with chapters an estimate until all shards were read once."""
        if self.chapters is None:
            return self.plan.num_samples
        return sum(own["samples"] for own in self.chapters.mixture(self.plan.choices, 0))

    def choices_of(self, catalog: Catalog) -> Choices:
        """Say what each position shows of a chapter, with others in the place of what turned out bad."""
        return replace(self.plan, catalog=catalog).leaving_out(self.left_out).choices

    @property
    def plans(self) -> tuple[Plan, ...]:
        """Of what is trained on and of what is held out."""
        return (self.plan,) if self.held_out_plan is None else (self.plan, self.held_out_plan)

    @cached_property
    def held_out(self) -> tuple[SampleJob, ...]:
        """Samples that are measured."""
        return () if self.held_out_plan is None else tuple(self.held_out_plan.held_out(self.max_held_out))

    @cached_property
    def held_out_sets(self) -> tuple[int, ...]:
        """Number of the data set of each sample of ``held_out``."""
        plan = self.held_out_plan
        if plan is None:
            return ()
        numbers = {id(data): number for number, data in enumerate(plan.catalog.sets)}
        return tuple(numbers[id(plan.catalog.locate(sample)[0])] for _, sample in plan.spread(self.max_held_out))

    @cached_property
    def items(self) -> tuple[SampleJob, ...]:
        """Samples to train on that are measured one by one."""
        return tuple(self.plan.held_out(self.num_items)) if self.num_items else ()

    @property
    def measured(self) -> tuple[SampleJob, ...]:
        """All samples that validations read."""
        return (*self.held_out, *self.items)

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """Bad samples that are left out, each medium once."""
        found = {problem for plan in self.plans for data in plan.catalog.sets for problem in data.problems}
        found |= set(() if self.chapters is None else self.chapters.problems)
        known = {problem.path for problem in found}
        later = {problem for plan in self.plans for _, problem in plan.problems(self.left_out) if problem.path not in known}
        return tuple(sorted(found | later, key=lambda problem: problem.path))

    @cached_property
    def captions(self) -> str | None:
        """Hash of the captions of all items, as they are listed; None of too many, and with chapters."""
        return None if self.chapters is not None else _hash_captions([data.table for data in self.plan.catalog.sets])

    @cached_property
    def held_out_captions(self) -> str | None:
        """The same of what is held out beside what is trained on (``validation.data``); None where there is none."""
        if self.held_out_plan is None:
            return None
        known = {id(data.table) for data in self.plan.catalog.sets}
        apart = [data.table for data in self.held_out_plan.catalog.sets if id(data.table) not in known]
        return _hash_captions(apart) if apart else None

    @property
    def texts(self) -> list[TextJob]:
        """Jobs of all captions, negative ones included, that generating will read from the cache."""
        jobs = [self.plan.text_job(request.prompt, request.image) for request in self.requests]
        if self.model.adapter.text.has_negative_prompt:
            jobs += [self.plan.text_job(request.negative_prompt or "", request.image) for request in self.requests]
        return jobs

    @property
    def pinned(self) -> list[str]:
        """Keys of the items that validation reads again and again."""
        return [job.key for job in self.texts] + [key for job in self.measured for key in job.keys]

    def without(self, left_out: tuple[LeftOut, ...]) -> "Prepared":
        """Return the run without these items; what it holds out is measured without them."""
        held_out_plan = None if self.held_out_plan is None else self.held_out_plan.leaving_out(left_out)
        return replace(self, plan=self.plan.leaving_out(left_out), held_out_plan=held_out_plan, left_out=left_out)


def _hash_captions(tables: list[pa.Table]) -> str | None:
    """Hash the captions of listings, in pieces; None of too many."""
    if sum(len(table) for table in tables) > MAX_CAPTIONED:
        return None
    digest = hashlib.blake2b(digest_size=8)
    for table in tables:
        for chunk in table["captions"].chunks:  # as one list of lists, which was hashed once
            digest.update(b"[")
            for first in range(0, len(chunk), CAPTIONS_AT_ONCE):
                text = repr(chunk.slice(first, CAPTIONS_AT_ONCE).to_pylist())[1:-1]
                digest.update(f"{', ' if first else ''}{text}".encode(errors="backslashreplace"))
            digest.update(b"]")
    return digest.hexdigest()
