"""What several tools have by similar names: optimizers, schedules, batches, data sets, models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetrainers.config.migrate.draft import Draft
from finetrainers.config.syntax import Tree
from finetrainers.config.tuning import MAX_RANK
from finetrainers.errors import ConfigError

FAMILIES = ("cogvideox", "cogview4", "flux", "hunyuan_video", "ltx_video", "wan")
"""Families that there are; ``finetrainers models`` lists them."""
BITS8 = "its 8-bit states are bitsandbytes'; install the extra bitsandbytes"
OPTIMIZERS: Mapping[str, tuple[str, str]] = {
    "adam": ("adam", ""),
    "adam-bnb": ("adam", ""),
    "adam-bnb-8bit": ("adamw_8bit", f"weight decay is decoupled here; {BITS8}"),
    "adam8bit": ("adamw_8bit", f"weight decay is decoupled here; {BITS8}"),
    "adam8": ("adamw_8bit", f"weight decay is decoupled here; {BITS8}"),
    "adamw": ("adamw", ""),
    "adamw-bnb": ("adamw", ""),
    "adamw_optimi": ("adamw", "weights have a float32 copy here in place of Kahan summation"),
    "optimi-adamw": ("adamw", "weights have a float32 copy here in place of Kahan summation"),
    "adamw_bf16": (
        "adamw",
        "weights have a float32 copy here; optimizer.masters: stochastic_rounding keeps them in bfloat16",
    ),
    "adamw8bit": ("adamw_8bit", BITS8),
    "adamw-bnb-8bit": ("adamw_8bit", BITS8),
    "bnb-adamw8bit": ("adamw_8bit", BITS8),
    "adamw8bitkahan": ("adamw_8bit", f"weights have a float32 copy here in place of Kahan summation; {BITS8}"),
    "adamw8": ("adamw_8bit", BITS8),
    "pagedadamw8bit": (
        "adamw_8bit",
        f"its states are not paged to the host; optimizer.state: cpu keeps them there; {BITS8}",
    ),
    "ao-adamw8bit": ("adamw_8bit", BITS8),
    "ao-adamw4bit": ("adamw_4bit", "needs the extra torchao"),
    "ao-adamwfp8": ("adamw_fp8", "needs the extra torchao"),
    "adafactor": ("adafactor", ""),
    "prodigy": ("prodigy", "needs the extra prodigyopt"),
    "prodigy8bit": ("prodigy", "its states are float32 here; needs the extra prodigyopt"),
    "adamw_schedulefree": ("adamw_schedule_free", "needs the extra schedulefree"),
    "adamwschedulefree": ("adamw_schedule_free", "needs the extra schedulefree"),
    "sgd": ("sgd", ""),
    "lion": ("pytorch_optimizer:lion", "needs the extra pytorch-optimizer"),
    "lion8bit": ("pytorch_optimizer:lion", "its states are float32 here; needs the extra pytorch-optimizer"),
    "optimi-lion": ("pytorch_optimizer:lion", "needs the extra pytorch-optimizer"),
    "optimi-stableadamw": ("pytorch_optimizer:stableadamw", "needs the extra pytorch-optimizer"),
    "stableadamw": ("pytorch_optimizer:stableadamw", "needs the extra pytorch-optimizer"),
    "came": ("pytorch_optimizer:came", "needs the extra pytorch-optimizer"),
    "soap": ("pytorch_optimizer:soap", "needs the extra pytorch-optimizer"),
}
"""Ours by the names of others in lower case, and what is different."""
UNREAD = {"sgd": ("beta2", "eps"), "adafactor": ("beta1", "beta2", "eps")}
"""What our optimizers do not read."""


def put_optimizer(
    draft: Draft, key: str, name: str, settings: Mapping[str, Any], origin: Mapping[str, str], *, registry: bool = False
) -> None:
    """Write an optimizer: ``settings`` by our keys (lr, weight_decay, beta1, beta2, eps), ``origin`` what they are there.

    ``registry`` says that other names are those of the package pytorch_optimizer, for this tool too.
    """
    ours, remark = OPTIMIZERS.get(name.lower(), ("", ""))
    if not ours and registry:
        ours, remark = f"pytorch_optimizer:{name.lower()}", "needs the extra pytorch-optimizer"
    if not ours:
        draft.lost(
            key, name, "there is no such optimizer here; adamw stands in its place, so choose its learning rate again"
        )
        ours = "adamw"
    draft.put("optimizer.name", ours)
    if remark:
        draft.differs(key, name, remark, "optimizer.name")
    unread = ("beta1", "beta2", "eps") if ":" in ours else UNREAD.get(ours, ())
    given = {setting: value for setting, value in settings.items() if value is not None}
    if ":" in ours and "beta1" in given and "beta2" in given and origin.get("beta1"):
        draft.put("optimizer.options", {"betas": [given["beta1"], given["beta2"]]})
    for setting, value in given.items():
        if setting not in unread:
            draft.put(f"optimizer.{setting}", value, None if origin.get(setting) else "not given: their default")
        elif origin.get(setting) and not (":" in ours and setting.startswith("beta")):
            draft.lost(origin[setting], value, f"optimizer.name: {ours} does not read it")


SCHEDULES = ("constant", "linear", "cosine", "cosine_with_restarts", "polynomial")


def put_schedule(draft: Draft, key: str, name: str, warmup: tuple[str, int], **shape: tuple[str, Any]) -> None:
    """Write a schedule; ``warmup`` and ``shape`` (cycles, power) are each the key of the source and its value."""
    ours = "constant" if name == "constant_with_warmup" else name
    if ours not in SCHEDULES:
        draft.lost(key, name, f"there is no such schedule here; write schedule.name: {', '.join(SCHEDULES[1:])}")
        ours = "constant"
    draft.put("schedule.name", ours)
    warmup_key, steps = warmup
    total = draft.tree["train"].get("steps", 0)  # of epochs nobody knows yet
    if steps and name == "constant":
        draft.idle(warmup_key, steps, "constant has no warm-up there")
    elif steps and steps >= total > 0:
        draft.put("schedule.warmup_steps", max(0, total - 1))
        draft.differs(warmup_key, steps, f"is not less than the {total} steps of the run", "schedule.warmup_steps")
    elif steps:
        draft.put("schedule.warmup_steps", steps)
    owners = {"cycles": "cosine_with_restarts", "power": "polynomial"}
    for setting, (theirs, value) in shape.items():
        if value is not None and ours == owners[setting]:
            draft.put(f"schedule.{setting}", value)
        elif value is not None:
            draft.idle(theirs, value, f"{name} does not read it")


def put_batch(draft: Draft, batch: tuple[str, int], accumulation: tuple[str, int], devices: tuple[str, int]) -> int:
    """Write a batch that the other tool counts on each device; return the samples of an optimizer step."""
    for key, number_of in (batch, accumulation, devices):
        if number_of < 1:
            raise ConfigError(f"{key}: {number_of} is less than 1; write 1 or more")
    total = batch[1] * accumulation[1] * devices[1]
    draft.put("train.micro_batch_size", batch[1])
    draft.put("train.batch_size", total)
    product = f"{batch[1]} x {accumulation[1]} x {devices[1]}"
    draft.differs(
        batch[0],
        batch[1],
        f"counts on each device there; ours counts all samples of an optimizer step: {product} "
        f"({batch[0]} x {accumulation[0]} x {devices[0]})",
        "train.batch_size",
    )
    return total


def put_adapter(draft: Draft, kind: str, rank: tuple[str, float], alpha: float) -> None:
    """Write an adapter; ranks that mean "whole" for another tool are more than there can be."""
    key, wanted = rank
    draft.put("tuning.kind", kind)
    if wanted > MAX_RANK:
        draft.put("tuning.rank", MAX_RANK)
        draft.put("tuning.alpha", MAX_RANK * alpha / wanted)
        draft.differs(key, wanted, "ranks beyond what a layer has are whole matrices; this is the largest", "tuning.rank")
        return
    draft.put("tuning.rank", int(wanted))
    draft.put("tuning.alpha", alpha)


def put_weights(draft: Draft, ours: str, key: str, value: Any, formats: Mapping[str, tuple[str, str]]) -> None:
    """Write the format that frozen weights rest in, by a table of the other tool's names."""
    found = formats.get(str(value))
    if found is None:
        draft.lost(key, value, f"{ours} has no such format; choose one of fp8_e4m3, fp8_scaled, int8, nf4")
    elif ours == "memory.weights" and draft.tree.get("tuning", {}).get("kind") == "full":
        draft.lost(key, value, "weights that are trained are not compressed here; see docs/memory.md for what else saves")
    elif found[0] != "none":
        draft.put(ours, found[0])
        if found[1]:
            draft.differs(key, value, found[1], ours)


def put_swapped(draft: Draft, key: str, value: Any) -> None:
    """Write that blocks rest in host memory: how many is counted when the run begins."""
    draft.put("memory.resident_blocks", "auto")
    draft.differs(
        key, value, "blocks that stay on the device are counted by memory.budget; a number says how many stay",
        "memory.resident_blocks",
    )  # fmt: skip
    if not draft.tree.get("train", {}).get("gradient_checkpointing"):
        draft.put("train.gradient_checkpointing", True, "blocks in host memory need it")


def put_levels(draft: Draft, noise_levels: str, std: float = 1.0, mean: float = 0.0, shift: Any = 1.0) -> None:
    """Write the distribution of noise levels."""
    draft.put("objective.noise_levels", noise_levels)
    if noise_levels == "logit_normal":
        draft.put("objective.logit_std", std)
        draft.put("objective.logit_mean", mean)
    draft.put("objective.shift", shift)


def add_data(draft: Draft, data: Tree) -> int:
    """Add a data set; return its number."""
    number = len(draft.tree.get("data", []))
    for key, value in data.items():
        draft.put(f"data.{number}.{key}", value)
    return number


def put_masks(draft: Draft) -> None:
    """Write the masked loss, if all data sets have masks; where some have none, nothing is masked."""
    sets = draft.tree.get("data", [])
    masked = [number for number, data in enumerate(sets) if "mask" in data.get("folders", {})]
    if masked and len(masked) == len(sets):
        draft.put("objective.kind", "masked")
    for number in masked if len(masked) < len(sets) else ():
        folders = sets[number]["folders"]
        draft.lost(
            f"masks of data.{number}", folders.pop("mask"),
            "with objective.kind: masked all data sets need masks, and others have none; give them white ones",
        )  # fmt: skip
        if not folders:
            del sets[number]["folders"]


MEDIA = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".avif", ".jxl", ".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


def count_items(data: Sequence[Tree]) -> float | None:
    """Count what an epoch shows of data sets, by the files of each; None if some are not on this machine."""
    total = 0.0
    for dataset in data:
        path = Path(dataset["path"]).expanduser()
        if path.is_dir():
            number = sum(file.suffix.lower() in MEDIA for file in path.iterdir())
        elif path.suffix == ".jsonl" and path.is_file():
            number = sum(bool(line.strip()) for line in path.read_text(encoding="utf-8").splitlines())
        else:
            return None
        total += number * dataset.get("repeats", 1)
    return total or None


class Epochs:
    """Turns epochs of another tool into steps, if the data are here; how long to train may stay in epochs."""

    def __init__(self, draft: Draft, samples_of_step: int) -> None:
        self._draft = draft
        self._items = count_items(draft.tree.get("data", []))
        self._batch = samples_of_step

    def put_length(self, key: str, epochs: int | None, *, most: int | None, default: int) -> None:
        """Write how long to train: in steps where they can be counted, and in epochs where nothing else says it.

        Args:
            key: Of the epochs.
            epochs: None if they are not given.
            most: Steps that are not exceeded.
            default: Steps where neither is given.
        """
        if epochs and self._items is None and most is None:
            self._draft.put("train.epochs", epochs)
            self._draft.differs(key, epochs, "are counted when the run finds its samples", "train.epochs")
            return
        counted = self.steps(key, epochs, "train.steps") if epochs else None
        self._draft.put("train.steps", min((n for n in (counted, most) if n is not None), default=default))

    def steps(self, key: str, epochs: float, ours: str) -> int | None:
        """Count the steps of so many epochs, with a note that they were counted, or that they could not be."""
        if self._items is None:
            self._draft.lost(key, epochs, f"the data are not on this machine, and epochs are not counted here; write {ours}")
            return None
        steps = max(1, round(epochs * self._items / self._batch))
        self._draft.differs(
            key, epochs, f"{ours} counts steps: {epochs:g} epochs of {self._items:g} samples, {self._batch} a step", ours
        )
        return steps


def need_family(where: str, name: str, families: Mapping[str, str]) -> str:
    """Find our family of another tool's name.

    Raises:
        ConfigError: If there is none.
    """
    if name in families:
        return families[name]
    raise ConfigError(
        f"{where}: {name}: there is no such family here; there are {', '.join(FAMILIES)}. Others can be added: "
        "see docs/add_a_model.md, then write the configuration with model.adapter"
    )


DOUBLE = (
    r"(transformer_blocks|single_transformer_blocks)\.\d+\..*"
    r"(to_[qkv]|to_out\.0|to_add_out|add_[qkv]_proj|net\.0\.proj|net\.2|proj_mlp|proj_out|linear)"
)
LINEARS = {
    "flux": DOUBLE,
    "hunyuan_video": DOUBLE,
    "ltx_video": r"transformer_blocks\.\d+\..*(to_[qkv]|to_out\.0|net\.0\.proj|net\.2)",
    "wan": r"blocks\.\d+\..*(to_[qkv]|to_out\.0|net\.0\.proj|net\.2|add_[kv]_proj)",
}
"""All linear layers of the blocks of a family, as regular expressions."""


def put_all_linears(draft: Draft, key: str, value: Any, family: str) -> None:
    """Write that all linear layers of blocks are adapted, as the other tool does without saying so."""
    if family in LINEARS:
        draft.put("tuning.targets", LINEARS[family])
        draft.differs(
            key, value, "adapts all linear layers of blocks; without this key, it would be the family's", "tuning.targets"
        )
