"""What a run says before it trains, and of what turns out while it does."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from finetrainers.config import Config
from finetrainers.config.base import AUTO
from finetrainers.config.data import Buckets
from finetrainers.data.catalog.cropped import about_crops
from finetrainers.data.catalog.left_out import JOURNAL
from finetrainers.data.catalog.occupancy import about_empty
from finetrainers.data.order.order import ORDER_VERSION
from finetrainers.errors import MissingItemError
from finetrainers.events import RunEvent
from finetrainers.optim.schedules import learning_rate
from finetrainers.training.auto import Settled
from finetrainers.training.checks.relocated import contents
from finetrainers.training.checks.same_run import code_before
from finetrainers.training.console.outline import outline_of
from finetrainers.training.native_sizes import are_native
from finetrainers.training.objective import SETTING
from finetrainers.training.prepared import Prepared
from finetrainers.training.report import read_events
from finetrainers.training.session import Session
from finetrainers.training.user_code import about_changed, digests_of
from finetrainers.training.versions import versions


def announce(
    session: Session,
    prepared: Prepared,
    *,
    resumed: int | None,
    settled: Settled | None = None,
    fitting: Sequence[str] = (),
) -> None:
    """Write the ``run`` event, and warn of what may not be what the user expects."""
    config, now = session.config, contents(prepared)
    code = digests_of(config)
    if resumed is not None:
        for message in about_changed(config, code_before(config)):
            session.warn(message)
    _announce_changes(session, prepared, resumed=resumed)
    outline = outline_of(
        config,
        prepared,
        device=session.device,
        processes=session.world.launch.size,
        resumed=resumed,
        settled=() if settled is None else settled.lines(),
        fitting=fitting,
    )
    session.emit(
        RunEvent(
            **{own.name: getattr(outline, own.name) for own in fields(outline)},
            data=now["data"],
            held_out=now["held_out"],
            model=now["model"],
            captions=prepared.captions,
            held_out_captions=prepared.held_out_captions,
            order=ORDER_VERSION,
            objective=code.get(SETTING),
            code=code or None,
            versions=versions(),
        )
    )
    for message in (*(() if settled is None else settled.notes), *about_data(config, prepared)):
        session.warn(message)


def announce_miss(session: Session, miss: MissingItemError, step: int) -> None:
    """Warn of items that were in the cache, and are no longer."""
    session.warn(f"items of the cache are encoded again, and the run continues with the same samples: {miss}", step=step)


def announce_replaced(session: Session, before: Prepared, prepared: Prepared, steps: range) -> None:
    """Warn of what turned out bad only now that its window is encoded."""
    new = {item.path for item in set(prepared.left_out) - set(before.left_out)}
    if new:
        count = prepared.plan.choices.num_replaced(prepared.order, steps)
        session.warn(
            f"{len(new)} media could not be decoded or encoded: others of their bucket stand in for {count} samples of "
            f"the steps {steps.start + 1} to {steps.stop}; {JOURNAL} and report.json name them",
            step=steps.start,
        )


def _announce_changes(session: Session, prepared: Prepared, *, resumed: int | None) -> None:
    """Say what differs from the last start of a run that goes on."""
    before = read_events(session.config.output_dir, {"run"})
    if resumed is None or not before:
        return
    for message in about_changed_data(before[-1], prepared):
        session.warn(message)
    if before[-1].get("order") != ORDER_VERSION:
        session.warn(
            "the order of samples has changed since this run was last started (an update): it continues with other samples "
            "from here"
        )
    for message in about_schedule(session.config, resumed, before[-1]["steps"]):
        session.warn(message)


def about_changed_data(before: Mapping[str, Any], prepared: Prepared) -> list[str]:
    """Say that the data is not that of the last start of a run, whose event ``run`` is ``before``."""
    if before.get("data") != prepared.plan.fingerprint():
        told = ["the data changed since the run was last started (files, or a signal): it continues with the new data"]
    elif before.get("captions") not in (None, prepared.captions):
        told = ["captions changed since the run was last started: it continues with the new ones"]
    else:
        told = []
    if before.get("held_out_captions") not in (None, prepared.held_out_captions) and _is_held_out_as(before, prepared):
        told.append(
            "captions of validation.data changed since the run was last started: held-out losses are of the new ones"
        )
    return told


def _is_held_out_as(before: Mapping[str, Any], prepared: Prepared) -> bool:
    """Whether the held-out data are those of the last start."""
    return before.get("held_out") == contents(prepared)["held_out"]


def about_schedule(config: Config, step: int, before: int) -> list[str]:
    """Say what another number of steps makes of the schedule, and that a finished run has nothing to do."""
    now = config.train.steps
    if step == now:
        return [f"finished at step {step}: nothing is left to train; raise train.steps to continue"]
    if now == before or config.schedule.name == "constant":
        return []
    rate, old = (learning_rate(config.optimizer, config.schedule, step=step, steps=n) for n in (now, before))
    return [
        f"train.steps changed from {before} to {now}, and schedule.name: {config.schedule.name} is "
        f"{'stretched' if now > before else 'shortened'} to it: step {step + 1} has the learning rate {rate:.4g}, "
        f"and would have had {old:.4g}"
    ]


def about_data(config: Config, prepared: Prepared) -> list[str]:
    """Say which media and which buckets are not trained on, and which pictures lose much to the crop."""
    catalog = prepared.plan.catalog
    model, messages = prepared.model, list[str]()

    def is_wanted(buckets: Buckets) -> bool:
        return not are_native(model, buckets)

    if prepared.chapters is None:  # else later ones may fill them
        messages += about_empty(catalog, "data", is_wanted=is_wanted)
    if config.validation.data and prepared.held_out_plan is not None:
        messages += about_empty(prepared.held_out_plan.catalog, "validation.data", is_wanted=is_wanted)
    messages += about_crops(catalog)
    messages += [
        f"{data.config.path}: {data.unlisted} media files are not listed and are not used"
        for data in catalog.sets
        if data.unlisted
    ]
    messages += about_own_rate(config, prepared)
    return messages + [
        f"{catalog.about_shape(int(prepared.order.samples_of(bucket)[0]))} has too few samples to fill a "
        f"batch of {config.train.batch_size} within {config.train.steps} steps: none of them will be trained on. "
        "Use a smaller batch_size, more steps, or fewer buckets"
        for bucket in prepared.order.starved(config.train.steps)
    ]


def about_own_rate(config: Config, prepared: Prepared) -> list[str]:
    """Say that an adapter of the user's own states no frame rate, where clips are left to it."""
    training, catalog = prepared.model.adapter.training, prepared.plan.catalog
    has_clips = any(
        data.config.fps == AUTO and any(catalog.buckets[bucket][0] > 1 for bucket in set(data.bucket.tolist()))
        for data in catalog.sets
    )
    if config.model.adapter is None or training.native_fps is not None or not has_clips:
        return []
    return [
        "data.N.fps: auto takes each clip's own frames, for model.adapter states no rate: set training.native_fps in it if "
        "the model was trained at one, or fps: null if it was not"
    ]
