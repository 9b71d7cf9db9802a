"""From a file and overrides to a configuration: all forms agree, and every mistake is one line that helps."""

import codecs
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from finetrainers.config import Config, Section, dump_config, find_file, load_config, parse_config
from finetrainers.config.reference import keys
from finetrainers.errors import ConfigError

MINIMAL = {"output_dir": "runs/x", "model": {"path": "m"}, "data": [{"path": "d", "buckets": [[1, 64, 64]]}]}

EVERYTHING = {
    **MINIMAL,
    "seed": 7,
    "tuning": {"kind": "lokr", "rank": 4, "targets": ["to_q", "to_k"]},
    "optimizer": {"name": "adamw", "lr": 1e-4, "beta2": 0.95},
    "objective": {"noise_levels": "logit_normal", "logit_std": 2.5, "shift": 3.0},
    "train": {"steps": 20, "batch_size": 4, "micro_batch_size": 2, "gradient_checkpointing": True},
    "attention": {"train": "native", "validate": "sage_hub"},
    "push_to_hub": True,
    "hub_repo": "user/name",
}

TOML = """
output_dir = "runs/x"
seed = 7
push_to_hub = true
hub_repo = "user/name"
model = {path = "m"}
tuning = {kind = "lokr", rank = 4, targets = ["to_q", "to_k"]}
optimizer = {name = "adamw", lr = 1e-4, beta2 = 0.95}
objective = {noise_levels = "logit_normal", logit_std = 2.5, shift = 3.0}
train = {steps = 20, batch_size = 4, micro_batch_size = 2, gradient_checkpointing = true}
attention = {train = "native", validate = "sage_hub"}
[[data]]
path = "d"
buckets = [[1, 64, 64]]
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    """Load the minimal configuration with overrides, or other YAML text."""

    def load(*overrides: str, text: str = json.dumps(MINIMAL)) -> Config:
        file = tmp_path / "config.yaml"
        file.write_text(text, encoding="utf-8")
        return load_config(file, overrides)

    return load


def lines_of(error: pytest.ExceptionInfo[ConfigError]) -> list[str]:
    """The lines that name wrong keys."""
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def test_yaml_toml_and_json_give_equal_configurations(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(EVERYTHING))
    (tmp_path / "a.yml").write_text(yaml.safe_dump(EVERYTHING))
    (tmp_path / "a.json").write_text(json.dumps(EVERYTHING))
    (tmp_path / "a.toml").write_text(TOML)
    configs = [load_config(tmp_path / f"a.{suffix}") for suffix in ("yaml", "yml", "json", "toml")]
    assert configs == [parse_config(EVERYTHING)] * 4
    assert configs[0].attention.validation == "sage_hub"


@pytest.mark.parametrize(
    ("overrides", "section", "key", "value"),
    [
        (["train.steps=5"], "train", "steps", 5),
        (["--train.steps=5"], "train", "steps", 5),
        (["--train.steps", "5"], "train", "steps", 5),
        (["--train.gradient_checkpointing"], "train", "gradient_checkpointing", True),
        (["--train.gradient_checkpointing", "false"], "train", "gradient_checkpointing", False),
        (["--train.gradient_checkpointing", "--train.steps", "5"], "train", "gradient_checkpointing", True),
        (["--train.gradient_checkpointing", "train.steps=5"], "train", "gradient_checkpointing", True),
        (["--train.gradient_checkpointing", "no"], "train", "gradient_checkpointing", False),
        (["--track.wandb", "a=b"], "track", "wandb", "a=b"),
        (["--track.wandb", "train.steps=5"], "track", "wandb", "train.steps=5"),
        (["--tuning", "{kind: full, modules: x=y}"], "tuning", "modules", "x=y"),
        (["--objective.noise_levels=logit_normal", "--objective.logit_mean", "-0.5"], "objective", "logit_mean", -0.5),
        (["optimizer.lr=1e-4"], "optimizer", "lr", 1e-4),
        (["optimizer.lr=.5E-3"], "optimizer", "lr", 5e-4),
        (["optimizer.lr=2"], "optimizer", "lr", 2.0),
        (["train.clip_norm=.inf"], "train", "clip_norm", math.inf),
        (["tuning={kind: full, modules: 'blocks.*'}"], "tuning", "modules", "blocks.*"),
        (["tuning.targets=[to_q, to_k]"], "tuning", "targets", ("to_q", "to_k")),
        (["train.steps=5", "train.steps=6"], "train", "steps", 6),
        (["track.wandb=a=b"], "track", "wandb", "a=b"),
        (["track.wandb=null"], "track", "wandb", None),
        (["train={steps: 5}", "train.batch_size=3"], "train", "steps", 5),
    ],
)
def test_overrides_have_several_forms(load, overrides, section, key, value) -> None:
    found = getattr(getattr(load(*overrides), section), key)
    assert (found, type(found)) == (value, type(value))


def test_overrides_reach_into_lists_and_named_components(load) -> None:
    config = load(
        "data.0.path=e",
        "data.1.path=f",
        "data.1.buckets=[[9, 32, 32]]",
        "model.components.vae.dtype=float32",
        "validation.data.0.path=g",
        "validation.data.0.buckets={pixels: 4096}",
        "data.0.buckets.0=[1, 32, 32]",
    )
    assert [d.path for d in config.data] == ["e", "f"]
    assert config.data[0].buckets == ((1, 32, 32),)
    assert config.data[1].buckets == ((9, 32, 32),)
    assert config.model.components["vae"].dtype == "float32"
    assert config.validation.data[0].buckets.pixels == 4096


def test_overrides_make_the_sections_and_lists_that_the_file_lacks(load) -> None:
    config = load("data.0.path=d", "data.0.buckets=[[1, 64, 64]]", "model.path=m", text="output_dir: runs/x")
    assert config == parse_config(MINIMAL)


TEXTS = (
    *(
        "runs/try #2",
        "photo of sks #1",
        "a: b",
        "[raw] clips",
        "{raw} clips",
        "%d",
        "@home",
        "`x`",
        "*attn*",
        "&a",
        "!important",
    ),
    *(
        "no",
        "yes",
        "on",
        "Off",
        "~",
        "Null",
        "true",
        "5",
        "007",
        "1e-4",
        "2024-01-01",
        "1_000",
        "0x1f",
        "- a",
        "? a",
        "| a",
        "a\tb",
    ),
    *("'tis", '"a" and "b"', "'a' #b", " a ", ", a", "a,", "<<", "=", "a=b", "# a", "x: [1", "\u00e4", "\u2028"),
)
"""Texts that YAML would cut, refuse, or take for something else."""


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("data.0.path", lambda config: config.data[0].path),
        ("data.0.caption_prefix", lambda config: config.data[0].caption_prefix),
        ("data.0.caption_column", lambda config: config.data[0].caption_column),
        ("tuning.targets.0", lambda config: config.tuning.targets[0]),
        ("model.components.vae.subfolder", lambda config: config.model.components["vae"].subfolder),
        ("output_dir", lambda config: str(config.output_dir)),
        ("track.wandb", lambda config: config.track.wandb),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # the name of a lambda holds its address
)
def test_an_override_of_a_text_is_taken_as_it_is_given(load, key, found, text) -> None:
    assert found(load(f"{key}={text}")) == text
    if not text.startswith("-"):
        assert found(load(f"--{key}", text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_quotes_around_the_whole_of_a_text_are_those_of_yaml(load, text) -> None:
    in_quotes = [json.dumps(text), "'" + text.replace("'", "''") + "'"]
    assert [load(f"data.0.path={quoted}").data[0].path for quoted in in_quotes if "\u2028" not in quoted] == [
        text for quoted in in_quotes if "\u2028" not in quoted
    ]


@pytest.mark.parametrize(
    ("override", "found", "value"),
    [
        ("track.wandb=null", lambda config: config.track.wandb, None),
        ("track.wandb=", lambda config: config.track.wandb, None),
        ("track.wandb='null'", lambda config: config.track.wandb, "null"),
        ("data.0.caption_prefix=null", lambda config: config.data[0].caption_prefix, ""),
        ("data.0.caption_prefix='null'", lambda config: config.data[0].caption_prefix, "null"),
        ("data.0.caption_prefix=123", lambda config: config.data[0].caption_prefix, "123"),
        ("data.0.caption_prefix=true", lambda config: config.data[0].caption_prefix, "true"),
        ('data.0.caption_prefix="a: b"', lambda config: config.data[0].caption_prefix, "a: b"),
        ("data.0.caption_prefix=", lambda config: config.data[0].caption_prefix, ""),
        ("tuning.targets=[to_q, to_k]", lambda config: config.tuning.targets, ("to_q", "to_k")),
        ("tuning.targets='[to_q, to_k]'", lambda config: config.tuning.targets, "[to_q, to_k]"),
        ("tuning.targets=[ab].*", lambda config: config.tuning.targets, "[ab].*"),
        ("checkpoint.resume=0010", lambda config: config.checkpoint.resume, 10),
        ("train.steps=0010", lambda config: config.train.steps, 10),
        ("seed=089", lambda config: config.seed, 89),
        ("seed=0x1f", lambda config: config.seed, 31),
        ("seed=0o17", lambda config: config.seed, 15),
        ("optimizer.lr=010.5", lambda config: config.optimizer.lr, 10.5),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_override_has_the_type_of_its_key(load, override, found, value) -> None:
    assert found(load(override)) == value


@pytest.mark.parametrize("text", [*TEXTS, "", "null"])
def test_a_text_is_dumped_such_that_it_is_read_back(load, text) -> None:
    tree = {**MINIMAL, "data": [{**MINIMAL["data"][0], "caption_prefix": text}]}
    dumped = dump_config(parse_config(tree))
    assert load(text=dumped).data[0].caption_prefix == text
    assert yaml.safe_load(dumped)["data"][0]["caption_prefix"] == text  # by a reader of YAML 1.1, too


def test_plain_words_of_yaml_are_what_they_look_like(load) -> None:
    """Text where the key takes text; numbers are decimal, and switches are booleans where the key takes one."""
    config = load(
        text="""
        output_dir: on
        seed: 0042
        model: {path: no}
        data: [{path: 1:30, buckets: [[1, 064, 64]], caption_prefix: 2024-01-01 10:00:00, caption_column: [1_000, Yes]}]
        train: {gradient_checkpointing: Yes, steps: 010}
        track: {wandb: off, tensorboard: off}
        push_to_hub: ON
        """
    )
    (data,) = config.data
    assert (str(config.output_dir), config.model.path, config.track.wandb) == ("on", "no", "off")
    assert (config.seed, config.train.steps, data.buckets) == (42, 10, ((1, 64, 64),))
    assert (data.path, data.caption_prefix, data.caption_column) == ("1:30", "2024-01-01 10:00:00", ("1_000", "Yes"))
    assert (config.train.gradient_checkpointing, config.track.tensorboard, config.push_to_hub) == (True, False, True)


def test_merge_keys_share_settings_and_are_no_keys_given_twice(load) -> None:
    config = load(
        text="""
        output_dir: x
        model: {path: m}
        data:
          - &first {path: a, buckets: [[1, 64, 64]]}
          - &second {<<: *first, path: b, stride: 2}
          - {<<: *second, path: c}
        validation: {data: [{<<: *second, path: d}]}
        """
    )
    assert [(data.path, data.stride) for data in (*config.data, *config.validation.data)] == [
        ("a", 1),
        ("b", 2),
        ("c", 2),
        ("d", 2),
    ]


@pytest.mark.parametrize("suffix", ["yaml", "json", "toml"])
def test_a_byte_order_mark_does_not_matter(tmp_path: Path, suffix: str) -> None:
    text = TOML if suffix == "toml" else json.dumps(EVERYTHING)
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(codecs.BOM_UTF8 + text.encode())
    assert load_config(file) == parse_config(EVERYTHING)


def test_one_data_set_needs_no_list(load) -> None:
    assert load(text=json.dumps({**MINIMAL, "data": MINIMAL["data"][0]})) == parse_config(MINIMAL)


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.e-4", "+1e-4", ".0001", "1.0e-4", "0.0001"])
def test_yaml_has_the_floats_of_version_1_2(load, text) -> None:
    assert load(text=f"{json.dumps(MINIMAL)[:-1]}, optimizer: {{lr: {text}}}}}").optimizer.lr == 1e-4


WRONG = {  # override -> what the line has to name: the key, the value, the way out
    "train.steps='5'": ["train.steps:", "integer", "'5'"],
    "train.steps=5.0": ["train.steps:", "integer", "5.0"],
    "train.steps=-1": ["train.steps:", "greater than or equal to 0", "-1"],
    "train.steps=true": ["train.steps:", "integer", "True"],
    "train.steps=null": ["train.steps:", "integer", "None"],
    "data.0.path=null": ["data.0.path:", "string", "None", "in quotes"],
    "cache.path=null": ["cache.path:", "path", "None", "in quotes"],
    "train.stepz=5": ["train.stepz:", "did you mean 'steps'?"],
    "trian.steps=5": ["trian:", "did you mean 'train'?"],
    "xylophone=5": ["xylophone:", "known here: output_dir, seed, model"],
    "train=5": ["train:", "not 5"],
    "train.steps.more=5": ["train.steps:", "integer"],
    "optimizer.lr=fast": ["optimizer.lr:", "number", "'fast'"],
    "optimizer.lr=0": ["optimizer.lr:", "greater than 0", "not 0"],
    "optimizer.lr=.inf": ["optimizer.lr:", "finite", "inf"],
    "optimizer.lr=.nan": ["optimizer.lr:", "finite", "nan"],
    "optimizer.name=adamm": ["optimizer.name:", "'adamw'", "'sgd'", "'adamm'"],
    "optimizer.beta1=1": ["optimizer.beta1:", "less than 1", "not 1"],
    "tuning.kind=lorra": ["tuning.kind:", "'lora', 'lokr', 'full'", "'lorra'"],
    "tuning=lora": ["tuning:", "kind: lora", "'lora'"],
    f"tuning.rank={10**20}": ["tuning.rank:", "less than or equal to 65536", f"not {10**20}"],
    f"tuning={{kind: lokr, rank: {2**16 + 1}}}": ["tuning.rank:", "less than or equal to 65536", "not 65537"],
    "tuning.rank=0": ["tuning.rank:", "greater than or equal to 1", "not 0"],
    "tuning.modules=x": ["tuning.modules:", "does not exist with this kind of tuning", "change the kind"],
    "tuning={kind: full, rank: 4}": ["tuning.rank:", "does not exist with this kind of tuning", "remove it"],
    "tuning.targets=[]": ["tuning.targets:", "at least 1"],
    "objective.noise_levels=unifrom": ["objective.noise_levels:", "'uniform'", "'unifrom'"],
    "objective.shift=0": ["objective.shift:", "greater than 0", "'resolution'", "not 0"],
    "objective.shift=much": ["objective.shift:", "number", "'auto' or 'resolution'", "'much'"],
    "conditioning={kind: given_frames, probability: 1.5}": ["conditioning.probability:", "less than or equal to 1", "1.5"],
    "data.0.buckets=[[512, 768]]": [
        "data.0.buckets: [512, 768]: a bucket is [frames, height, width]; for images write [1, 512, 768]",
    ],
    "data.0.buckets=[49, 512, 768]": ["data.0.buckets: [49, 512, 768] is one bucket", "write [[49, 512, 768]]"],
    "data.0.buckets=[512, 768]": ["data.0.buckets:", "for images write [[1, 512, 768]]", "one number"],
    "data.0.buckets=[1024]": [
        "data.0.buckets: [1024] is not a bucket; for all aspect ratios write the number alone",
        "1024",
    ],
    "data.0.buckets=[[1, 64, 64, 64]]": ["data.0.buckets: [1, 64, 64, 64]: a bucket is [frames, height, width]"],
    "data.0.buckets=0": ["data.0.buckets:", "greater than or equal to 1", "not 0"],
    "data.0.buckets=[[1, 64, 0]]": ["data.0.buckets.0.2:", "greater than or equal to 1", "not 0"],
    "data.0.buckets=[]": ["data.0.buckets:", "at least 1", "[]"],
    "data.0.buckets=x": ["data.0.buckets:", "'auto'", "integer", "a list", "keys and values", "not 'x'"],
    "data.0.buckets={pixel: 5}": ["data.0.buckets.pixel:", "did you mean 'pixels'?"],
    "data.0.buckets={pixels: 0}": ["data.0.buckets.pixels:", "greater than or equal to 1", "not 0"],
    "data.0.buckets={pixels: 5000, frames: []}": ["data.0.buckets.frames:", "at least 1", "[]"],
    "data.0.captoin_prefix=x": ["data.0.captoin_prefix:", "did you mean 'caption_prefix'?"],
    "data.0={path: d, buckets: [[1, 64, 64]], caption_column: 5}": ["data.0.caption_column:", "string", "a list", "not 5"],
    "data.0.frame_sampling=last": ["data.0.frame_sampling:", "'start', 'middle'", "'last'"],
    "data.0=5": ["data.0:", "keys and values", "not 5"],
    "data=[]": ["data:", "at least 1", "[]"],
    "data.1.repeats=2": ["data.1.path:", "is required and not given"],
    "model=m": ["model:", "keys and values", "'m'"],
    "model={paht: m}": ["model.paht:", "did you mean 'path'?"],
    "model.components.vae.dtyp=float32": ["model.components.vae.dtyp:", "did you mean 'dtype'?"],
    "model.components.vae.dtype=fp8": ["model.components.vae.dtype:", "'float32', 'bfloat16'", "'fp8'"],
    f"seed={2**63}": ["seed:", "less than or equal to 9223372036854775807", "9223372036854775808"],
    "tuning.targets=*attn*": ["tuning.targets:", "'*attn*'", "not a regular expression", "write '.*attn.*'"],
    "tuning={kind: lokr, targets: '*'}": ["tuning.targets:", "'*'", "not a regular expression", "write '.*'"],
    "tuning={kind: full, modules: (a}": ["tuning.modules:", "'(a'", "not a regular expression", "unterminated"],
    "seed=-1": ["seed:", "greater than or equal to 0", "-1"],
    "checkpoint.resume=newest": ["checkpoint.resume:", "'latest'", "integer", "'newest'"],
    "checkpoint.keep=0": ["checkpoint.keep:", "greater than or equal to 1", "not 0"],
    "validation.held_out=1": ["validation.held_out:", "less than 1", "not 1"],
    "attention.train=sage": ["attention.train:", "'native'", "'sage'"],
    "parallel.shard=0": ["parallel.shard:", "greater than or equal to 1", "not 0"],
    "conditioning.kind=depth": ["conditioning.kind:", "'none'", "'depth'"],
    "train.ema_decay=1": ["train.ema_decay:", "less than 1", "not 1"],
    "cache.max_gb=0": ["cache.max_gb:", "greater than 0", "not 0"],
    "cache.encode=on_the_fly": ["cache.encode:", "needs a limit", "set cache.max_gb"],
    "cache={encode: later}": ["cache.encode:", "'ahead'", "'on_the_fly'", "'later'"],
    "push_to_hub=maybe": ["push_to_hub:", "boolean", "'maybe'"],
    "output_dir=": ["output_dir:", "string", "not None"],
    "train.steps=1_000": ["train.steps:", "integer", "'1_000'"],
    "train.steps=1:30": ["train.steps:", "integer", "'1:30'"],
    "optimizer.lr=1:30.5": ["optimizer.lr:", "number", "'1:30.5'"],
    "train.steps=yes": ["train.steps:", "integer", "'yes'"],
    "data.0.paht=[raw] x": ["data.0.paht:", "did you mean 'path'?"],
    "model={path: 5}": ["model.path:", "string", "not 5", "in quotes it is text"],
    "track={wandb: true}": ["track.wandb:", "string", "not True", "in quotes it is text"],
}


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_key_is_one_line_with_key_value_and_way_out(load, override) -> None:
    with pytest.raises(ConfigError) as error:
        load(override)
    (line,) = lines_of(error)
    assert line.startswith(WRONG[override][0])
    for part in WRONG[override][1:]:
        assert part in line


def test_each_of_several_wrong_keys_has_its_line(load) -> None:
    with pytest.raises(ConfigError) as error:
        load("train.stepz=5", "optimizer.lr=-1", "data.0.buckets=[[1, 64, 0], [1, 0, 64]]", "tuning.rank=0")
    starts = [line.split(":")[0] for line in lines_of(error)]
    assert starts == ["data.0.buckets.0.2", "data.0.buckets.1.1", "optimizer.lr", "train.stepz", "tuning.rank"]


def test_a_misspelt_required_key_is_not_also_reported_as_missing(load) -> None:
    with pytest.raises(ConfigError) as error:
        load(text=json.dumps({**MINIMAL, "modle": MINIMAL["model"]}).replace('"model"', '"unused"'))
    assert [line.split(";")[0] for line in lines_of(error)] == [
        "modle: there is no such key",
        "unused: there is no such key",
    ]


def test_a_file_without_keys_names_what_is_required(load) -> None:
    with pytest.raises(ConfigError) as error:
        load(text="{}")
    assert lines_of(error) == [f"{key}: is required and not given" for key in ("data", "model", "output_dir")]


INEFFECTIVE = {  # overrides that could not take effect -> what the message has to name
    ("cache={encode: on_the_fly, max_gb: 1}", "memory.shard_text_encoders=true"): ["shard_text_encoders", "cache.encode"],
    ("objective.noise_levels=uniform", "objective.logit_std=1"): ["logit_std", "uniform", "logit_normal"],
    ("objective.mask_floor=0.5",): ["mask_floor", "auto", "masked"],
    ("objective.kind=masked", "objective.beta=1"): ["beta", "masked", "dpo"],
    ("objective.logit_mean=0",): ["logit_mean", "auto", "logit_normal"],
    ("objective.noise_levels=logit_normal", "objective.mode_scale=1"): ["mode_scale", "logit_normal", "mode"],
    ("optimizer.name=sgd", "optimizer.eps=1e-8"): ["eps", "sgd", "remove it"],
    ("optimizer.name=sgd", "optimizer.beta2=0.9"): ["beta2", "sgd", "remove it"],
    ("optimizer.name=adafactor", "optimizer.beta1=0.9"): ["beta1", "adafactor", "remove it"],
    ("schedule.power=2",): ["power", "constant", "polynomial"],
    ("schedule.name=cosine", "schedule.cycles=2"): ["cycles", "cosine", "cosine_with_restarts"],
    ("schedule.warmup_steps=1000",): ["schedule.warmup_steps: 1000", "train.steps (1000)"],
    ("data.0.views=3",): ["views: 3", "random_crop", "horizontal_flip"],
    ("data.0.views=1", "data.0.horizontal_flip=true"): ["views: 1", "horizontal_flip"],
    ("data.0.fps=8", "data.0.stride=2"): ["fps", "stride", "one of them"],
    ("data.0.videos_as_images=true", "data.0.buckets=[[9, 64, 64]]"): ["videos_as_images: True", "bucket of one frame"],
    ("data.0.weight=2",): ["data.0.weight: 2", "one data set", "remove it"],
    ("data.0.weight=2", "data.1={path: e, buckets: [[1, 64, 64]]}"): ["data.1.weight", "data.0 has one", "or none"],
    ("data.1={path: e, buckets: [[1, 64, 64]], weight: 1}",): ["data.0.weight", "data.1 has one", "or none"],
    ("data.0.weight=2", "data.0.repeats=2", "data.1={path: e, buckets: [[1, 64, 64]], weight: 1}"): [
        "data.0.repeats: 2.0",
        "with weight: 2",
        "one of them",
    ],
    ("validation.every=5",): ["every", "prompts, held_out or data"],
    ("validation.held_out=0.1", 'validation.data=[{"path": "e", "buckets": [[1, 64, 64]]}]'): ["held_out", "data"],
    ("hub_repo=user/name",): ["hub_repo: user/name", "push_to_hub: true"],
    ("hub_private=true",): ["hub_private: True", "push_to_hub: true"],
    ("validation.max_items=64",): ["validation.max_items: 64", "held_out or data"],
    ("validation.noise_levels=4", "validation.prompts=p.json"): ["validation.noise_levels: 4", "held_out or data"],
    ("loader.workers=0", "loader.prefetch=2"): ["loader.prefetch: 2", "workers: 0", "workers: 1 or more"],
    ("model.family=flux", "model.adapter=a.py:A"): ["model.family: 'flux'", "a.py:A", "one of them"],
    ("optimizer.name=prodigy",): ["optimizer.lr: auto has no factor", "prodigy", "usually 1"],
    ("optimizer.name=pytorch_optimizer:DAdaptAdam",): ["optimizer.lr: auto has no factor", "DAdaptAdam", "usually 1"],
    ("optimizer.name=pytorch_optimizer:lion", "optimizer.beta1=0.9"): ["beta1", "lion", "options"],
    ("optimizer.options.momentum=0.9",): ["optimizer.options", "momentum", "adamw", "remove it"],
    ("optimizer.in_backward=true",): ["optimizer.in_backward", "train.clip_norm: 1.0", ".inf"],
    ("optimizer.in_backward=true", "train.clip_norm=.inf", "train.batch_size=6", "train.micro_batch_size=3"): [
        "optimizer.in_backward",
        "train.batch_size: 6",
        "takes 2",
        "train.micro_batch_size: 6",
    ],
    ("optimizer.state=cpu", "optimizer.in_backward=true"): ["optimizer.in_backward: true", "state: cpu"],
    ("optimizer.state=cpu", "optimizer.masters=stochastic_rounding"): ["optimizer.masters: stochastic", "state: cpu"],
    ("optimizer.masters=stochastic_rounding", "model.dtype=float32"): ["optimizer.masters", "model.dtype is float32"],
    ("optimizer.name=prodigy", "optimizer.lr=1", "optimizer.in_backward=true"): ["optimizer.in_backward: true", "prodigy"],
    ("optimizer.name=pytorch_optimizer:lamb", "optimizer.masters=stochastic_rounding"): ["optimizer.masters", "lamb"],
    ("optimizer.name=adamw_schedule_free", "optimizer.masters=stochastic_rounding"): ["optimizer.masters", "second set"],
    **{
        (f"validation.data=[{{path: e, buckets: [[1, 64, 64]], {key}: {value}}}]",): [
            f"validation.data.0.{key}: {shown}",
            "first view",
            "remove it",
        ]
        for key, value, shown in [
            ("repeats", "2.0", "2.0"),
            ("repeats", "0.5", "0.5"),
            ("weight", "1", "1.0"),
            ("loss_weight", "0.5", "0.5"),
            ("caption_dropout", "0.1", "0.1"),
            ("horizontal_flip", "true", "True"),
            ("resize", "random_crop", "random_crop"),
            ("frame_sampling", "random", "random"),
        ]
    },
    ("model.path=.", "model.revision=main"): ["model.revision: 'main'", ". is a local folder", "remove it"],
    ("model.components.vae.path=/", "model.components.vae.revision=main"): ["model.components.vae.revision", "/ is a local"],
    ("model.path=.", "model.components.vae.revision=main"): ["model.components.vae.revision: 'main'", ". is a local"],
    ("train.batch_size=5", "train.micro_batch_size=3"): ["batch_size: 5", "micro_batch_size (3)", "3 and 6"],
    ("train.batch_size=1", "train.micro_batch_size=3"): ["batch_size: 1", "micro_batch_size (3)", "work: 3"],
}


@pytest.mark.parametrize("overrides", INEFFECTIVE, ids=" ".join)
def test_a_setting_that_cannot_take_effect_is_an_error(load, overrides) -> None:
    with pytest.raises(ConfigError) as error:
        load(*overrides)
    (line,) = lines_of(error)
    for part in INEFFECTIVE[overrides]:
        assert part in line


@pytest.mark.parametrize(
    "overrides",
    [
        ("objective.noise_levels=logit_normal", "objective.logit_std=1"),
        ("objective.noise_levels=mode", "objective.mode_scale=1"),
        ("optimizer.name=sgd", "optimizer.beta1=0.5"),
        ("schedule.name=polynomial", "schedule.power=2"),
        ("schedule.name=cosine_with_restarts", "schedule.cycles=2"),
        ("schedule.warmup_steps=999",),
        ("schedule.warmup_steps=9", "train.steps=0"),
        ("data.0.views=3", "data.0.resize=random_crop"),
        ("data.0.views=3", "data.0.frame_sampling=random"),
        ("data.0.views=2", "data.0.horizontal_flip=true"),
        ("data.0.views=1",),
        ("data.0.fps=8", "data.0.stride=1"),
        ("data.0.fps=auto", "data.0.stride=2"),
        ("data.0.fps=null", "data.0.stride=2"),
        ("data.0.videos_as_images=true", "data.0.buckets=[[9, 64, 64], [1, 64, 64]]"),
        ("data.0.videos_as_images=true", "data.0.buckets={pixels: 4096}"),
        ("data.0.weight=2", "data.1={path: e, buckets: [[1, 64, 64]], weight: 0.5, loss_weight: 2}"),
        ("data.0.repeats=2", "data.0.loss_weight=0.5", "data.1={path: e, buckets: [[1, 64, 64]]}"),
        ("validation.every=5", "validation.held_out=0.1"),
        ("hub_repo=user/name", "push_to_hub=true"),
        ("hub_private=false", "push_to_hub=true"),
        ("validation.max_items=64", "validation.held_out=0.1"),
        ("loader.workers=1", "loader.prefetch=2"),
        ("optimizer.name=prodigy", "optimizer.lr=5e-5"),
        ("optimizer.name=muon", "optimizer.options={momentum: 0.9, ns_steps: 6}", "optimizer.beta1=0.8"),
        (
            "optimizer.name=pytorch_optimizer:Lion",
            "optimizer.options.betas=[0.95, 0.98]",
            "optimizer.in_backward=true",
            "train.clip_norm=.inf",
            "optimizer.masters=stochastic_rounding",
        ),
        ("optimizer.state=cpu", "optimizer.masters=float32", "optimizer.in_backward=false", "model.dtype=float32"),
        ("validation.data=[{path: e, buckets: [[1, 64, 64]], repeats: 1, caption_dropout: 0, views: 1}]",),
        ("model.revision=main", "model.components.vae.path=/"),
        ("model.path=.", "model.components.vae.path=user/vae", "model.components.vae.revision=main"),
        ("train.batch_size=6", "train.micro_batch_size=3"),
    ],
    ids=" ".join,
)
def test_a_setting_that_takes_effect_is_none(load, overrides) -> None:
    load(*overrides)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["train.steps"], ["'train.steps'", "section.key=value"]),
        (["--train.steps"], ["train.steps: --train.steps has no value", "train.steps=VALUE"]),
        (["--data.0.path", "--push_to_hub"], ["data.0.path: --data.0.path has no value"]),
        (["--push_to_hub", "maybe"], ["'maybe'", "section.key=value"]),
        (["--push_to_hubb"], ["did you mean 'push_to_hub'?"]),
        (["data.2.path=x"], ["data.2", "list of 1", "0 to 1"]),
        (["data.x.path=y"], ["data.x", "'x'", "0 to 1"]),
        (["data.-1=y"], ["data.-1", "0 to 1"]),
        (["seed.x.y=5", "seed=1"], None),
        (["model.path.x.y=5"], ["model.path", "'m'", "no keys"]),
        (["model.path.x=5"], ["model.path.x", "'m'", "no keys"]),
        (["train.steps=[1"], ["train.steps", "'[1'", "quote it"]),
        (["tuning={rank: 1, rank: 2}"], ["tuning", "quote it"]),
    ],
    ids=str,
)
def test_a_malformed_override_is_an_error(load, overrides, parts) -> None:
    if parts is None:
        assert load(*overrides).seed == 1
        return
    with pytest.raises(ConfigError) as error:
        load(*overrides)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    ("name", "contents", "parts"),
    [
        ("a.ini", b"x", [".ini suffix", ".yaml, .toml or .json"]),
        ("config", b"x", ["no suffix", ".yaml, .toml or .json"]),
        ("a.yaml", b"a: [1", ["cannot be parsed", "line 1"]),
        ("a.toml", b"a = ", ["cannot be parsed"]),
        ("a.json", b'{"a": }', ["cannot be parsed", "line 1"]),
        ("a.yaml", b"- 1\n- 2", ["holds list"]),
        ("a.yaml", b"", ["is empty"]),
        ("a.yaml", b"# seed: 1", ["is empty"]),
        ("a.json", b"", ["cannot be parsed"]),
        ("a.yaml", b"model:\n\tpath: m", ["cannot be parsed", "line 2"]),
        ("a.yaml", b"model: &m {path: *m}", ["model.path", "alias"]),
        ("a.yaml", b"seed: " + b"9" * 5000, ["cannot be parsed", "digits"]),
        ("a.json", b'{"seed": ' + b"9" * 5000 + b"}", ["cannot be parsed", "digits"]),
        ("a.toml", b"seed = 1979-05-27", ["seed", "1979-05-27", "date", "quote it"]),
        ("a.toml", b"data = [{path = 1979-05-27T07:32:00Z}]", ["data.0.path", "datetime", "quote it"]),
        ("a.yaml", b"seed: !!binary aGk=", ["cannot be parsed", "binary"]),
        ("a.json", b"5", ["holds int"]),
        ("a.yaml", b"caption: \xff\xfe", ["UTF-8"]),
        ("a.yaml", b"seed: 1\nmodel: {}\nseed: 2", ["'seed' is given twice", "line 3"]),
        ("a.yaml", b"model: {path: a, path: b}", ["'path' is given twice"]),
        ("a.json", b'{"model": {"path": "a", "path": "b"}}', ["'path' is given twice"]),
        ("a.toml", b"seed = 1\nseed = 2", ["cannot be parsed"]),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path, name, contents, parts) -> None:
    file = tmp_path / name
    file.write_bytes(contents)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert str(error.value).startswith(str(file))
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize("place", ["missing.yaml", "."])
def test_a_file_that_is_not_there_is_an_error(tmp_path: Path, place: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read: (No such file|Is a directory)"):
        load_config(tmp_path / place)


def test_a_section_never_changes() -> None:
    config = parse_config(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        config.train.steps = 5


# -- dump_config ------------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12) | st.sampled_from(
    ["1", "1e-4", "null", "yes", "~", "2024-01-01", ".inf", "a: b", "- x", "#", "'", '"', " x ", "0x1f", "1_000", "{}"]
)
PROBABILITY = st.floats(0, 1, exclude_max=True)
POSITIVE = st.floats(1e-12, 1e12)


@st.composite
def given_keys(draw, required, optional):
    """Keys with values: all required ones and any of the others, so that what is unset differs as well."""
    chosen = draw(st.sets(st.sampled_from(sorted(optional)))) if optional else set()
    return {key: draw(value) for key, value in {**required, **{k: optional[k] for k in sorted(chosen)}}.items()}


BUCKET = st.tuples(*[st.integers(1, 999)] * 3).map(list)
BUCKETS = st.lists(BUCKET, min_size=1, max_size=3) | given_keys(
    {"pixels": st.integers(4096, 10**7)},
    {
        "frames": st.lists(st.integers(1, 99), min_size=1, max_size=3),
        "step": st.integers(1, 64),
        "max_aspect": st.floats(1, 9),
    },
)
DATA = st.one_of(
    given_keys(
        {"path": WORDS.map("d{}".format), "buckets": BUCKETS, **required},
        {
            "media_column": st.none() | WORDS,
            "caption_column": st.none() | WORDS | st.lists(WORDS, min_size=1, max_size=2),
            "caption_lines": st.booleans(),
            "repeats": POSITIVE,
            "loss_weight": POSITIVE,
            "max_upscale": st.floats(1, 99),
            "caption_prefix": WORDS,
            "caption_dropout": PROBABILITY,
            "on_error": st.sampled_from(["fail", "skip"]),
            **optional,
        },
    )
    for required, optional in [
        ({}, {"fps": st.none() | st.just("auto") | POSITIVE, "resize": st.just("stretch"), "views": st.none() | st.just(1)}),
        ({"resize": st.just("random_crop")}, {"views": st.integers(1, 9), "stride": st.integers(1, 9)}),
        ({"horizontal_flip": st.just(True)}, {"views": st.integers(2, 9), "frame_sampling": st.just("random")}),
    ]
)
HELD_OUT_DATA = given_keys({"path": WORDS.map("d{}".format), "buckets": BUCKETS}, {"max_upscale": st.floats(1, 99)})
TUNING = st.one_of(
    given_keys({}, {"rank": st.integers(1, 999), "alpha": POSITIVE, "rslora": st.booleans(), "targets": st.none() | WORDS}),
    given_keys({"kind": st.just("lokr")}, {"factor": st.integers(-1, 9), "dropout": PROBABILITY}),
    given_keys({"kind": st.just("full")}, {"modules": st.none() | WORDS}),
)
OBJECTIVE = st.one_of(
    given_keys(
        {"noise_levels": st.just(kind)},
        {
            **own,
            "shift": POSITIVE | st.sampled_from(["auto", "resolution"]),
            "weighting": st.sampled_from(["none", "sigma_sqrt", "cosmap"]),
        },
    )
    for kind, own in [
        ("auto", {}),
        ("uniform", {}),
        ("logit_normal", {"logit_mean": st.floats(-9, 9), "logit_std": POSITIVE}),
        ("mode", {"mode_scale": st.floats(-1, 1.75)}),
    ]
)
CONDITIONS = [
    st.just({"kind": "none"}),
    given_keys({"kind": st.just("given_frames")}, {"probability": st.none() | st.floats(0, 1), "frames": st.just("last")}),
    given_keys({"kind": st.just("channel_concat"), "signal": st.just("gray")}, {"mask": st.booleans()}),
]
CONDITIONING = st.one_of(
    *CONDITIONS,
    st.lists(st.sampled_from(range(3)), unique=True).flatmap(
        lambda chosen: st.tuples(*(CONDITIONS[number] for number in chosen)).map(list)
    ),
)
OPTIMIZER = st.one_of(
    given_keys(
        {"name": st.just(name), **({"lr": POSITIVE} if name == "prodigy" else {})},
        {"lr": POSITIVE, "weight_decay": st.floats(0, 1), **own},
    )
    for name, own in [
        ("adamw", {"beta1": PROBABILITY, "beta2": PROBABILITY, "eps": POSITIVE}),
        ("sgd", {"beta1": PROBABILITY}),
        ("adafactor", {}),
        ("prodigy", {"beta1": PROBABILITY}),
    ]
)
SCHEDULE = st.one_of(
    given_keys({"name": st.just(name)}, {"warmup_steps": st.integers(0, 9), **own})
    for name, own in [
        ("constant", {}),
        ("cosine_with_restarts", {"cycles": st.integers(1, 9)}),
        ("polynomial", {"power": POSITIVE}),
    ]
)
TRAIN = given_keys(
    {"batch_size": st.just(12), "steps": st.integers(10, 10**9)},
    {
        "micro_batch_size": st.sampled_from([1, 2, 3, 4, 6, 12]),
        "clip_norm": POSITIVE | st.just(math.inf),
        "gradient_checkpointing": st.booleans(),
        "ema_decay": st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
        "non_finite": st.sampled_from(["stop", "skip"]),
    },
)
VALIDATION = st.one_of(
    given_keys(required, {"every": st.none() | st.integers(1, 99), **own})
    for required, own in [
        ({"prompts": WORDS}, {}),
        ({"held_out": st.floats(0, 1, exclude_min=True, exclude_max=True)}, {"noise_levels": st.integers(1, 9)}),
        ({"data": st.lists(HELD_OUT_DATA, min_size=1, max_size=2)}, {"max_items": st.integers(1, 9)}),
    ]
)
COMPONENT = given_keys({}, {"path": st.none() | WORDS, "dtype": st.sampled_from(["float32", "float16"])})
MODEL = given_keys(
    {"path": WORDS}, {"components": st.dictionaries(WORDS, COMPONENT, max_size=2), "dtype": st.just("float32")}
)
CONFIGS = given_keys(
    {"output_dir": WORDS, "model": MODEL, "data": st.lists(DATA, min_size=1, max_size=2), "train": TRAIN},
    {
        "tuning": TUNING,
        "conditioning": CONDITIONING,
        "objective": OBJECTIVE,
        "optimizer": OPTIMIZER,
        "schedule": SCHEDULE,
        "validation": VALIDATION,
        "attention": given_keys({}, {"train": st.just("flex"), "validate": WORDS}),
        "track": given_keys({}, {"wandb": st.none() | WORDS, "tensorboard": st.booleans()}),
        "cache": given_keys({}, {"path": WORDS, "max_gb": st.none() | POSITIVE}),
        "checkpoint": given_keys({}, {"resume": st.just("latest") | st.integers(0, 99)}),
        "seed": st.integers(0, 2**63 - 1),
        "push_to_hub": st.booleans(),
        "loader": given_keys({"workers": st.just(1)}, {"prefetch": st.integers(1, 9)}) | st.just({"workers": 0}),
    },
)


@settings(max_examples=100, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(tree=CONFIGS)
def test_what_is_dumped_loads_as_an_equal_configuration(tree, tmp_path_factory: pytest.TempPathFactory) -> None:
    config = parse_config(tree)
    file = tmp_path_factory.getbasetemp() / "dumped.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    again = load_config(file)
    assert again == config
    assert dump_config(again) == dump_config(config)


def test_folders_and_columns_of_streams_are_dumped(tmp_path: Path) -> None:
    data = {**MINIMAL["data"][0], "folders": {"mask": "yes", "rejected": "b"}, "columns": {"control": "depth"}}
    config = parse_config({**MINIMAL, "data": [data]})
    (tmp_path / "dumped.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "dumped.yaml") == config


def test_a_dumped_configuration_has_every_default_written_out() -> None:
    tree = yaml.safe_load(dump_config(parse_config(MINIMAL)))
    assert tree["train"]["steps"] == 1000
    assert tree["attention"] == {"train": "auto", "validate": "auto"}
    assert {"beta1", "beta2", "eps"} <= tree["optimizer"].keys()
    assert "logit_std" not in tree["objective"]  # it would be refused beside noise_levels: auto


def defaults_in_use(section: Section, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Section and key of all that a configuration reads."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from defaults_in_use(value, f"{prefix}{name}.")
        elif name not in section.idle() and name != "data":
            yield f"{prefix}{field.alias or name}", str(value)


def test_a_changed_default_does_not_change_a_saved_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read is written out, with every optimizer: only what is idle may be missing."""
    for name in ("adamw", "sgd", "adafactor", "prodigy"):
        config = parse_config({**MINIMAL, "optimizer": {"name": name, "lr": 1.0}, "loader": {"workers": 0}})
        saved = yaml.safe_load(dump_config(config))
        for key, _ in defaults_in_use(config):
            node = saved
            for part in key.split("."):
                assert part in node, (name, key)
                node = node[part]


# -- words of a command line ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "file", "others"),
    [
        ("c.yaml train.steps=5", "c.yaml", "train.steps=5"),
        ("train.steps=5 c.yaml", "c.yaml", "train.steps=5"),
        ("--train.steps 5 c.yaml", "c.yaml", "--train.steps 5"),
        ("--train.steps=5 c.yaml", "c.yaml", "--train.steps=5"),
        ("--push_to_hub c.yaml --seed 1", "c.yaml", "--push_to_hub --seed 1"),
        ("--push_to_hub true c.yaml", "c.yaml", "--push_to_hub true"),
        ("--optimizer.lr -0.5 c.yaml", "c.yaml", "--optimizer.lr -0.5"),
        ("runs/lr=1e-4/c.yaml seed=1", "runs/lr=1e-4/c.yaml", "seed=1"),
        ("--model.components.vae.path a c.yaml", "c.yaml", "--model.components.vae.path a"),
        ("c.yaml d.yaml", "c.yaml", "d.yaml"),
        ("seed=1 --push_to_hub", None, "seed=1 --push_to_hub"),
        ("", None, ""),
    ],
)
def test_the_file_is_the_first_word_that_is_no_override(words, file, others) -> None:
    assert find_file(words.split()) == (file, others.split())


@pytest.mark.parametrize("key", [key for key in keys() if key.type == "bool"], ids=lambda key: key.name)
def test_every_switch_is_a_flag(key) -> None:
    name = key.name.replace("N", "0").replace("NAME", "vae")
    assert find_file([f"--{name}", "c.yaml"]) == ("c.yaml", [f"--{name}"])
