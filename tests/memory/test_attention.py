"""Attention backends: which are known, how the fastest right one is found, and what a run does with it."""

import inspect
import json
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_attention
import jsonschema
import pytest
import torch
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures
from torch.nn.functional import scaled_dot_product_attention

import finetrainers
from finetrainers.batch import Text
from finetrainers.config import ModelConfig
from finetrainers.config.attention import TRAINABLE_ATTENTION
from finetrainers.errors import ConfigError
from finetrainers.memory import attention_trial
from finetrainers.memory.attention import KERNELS, MASKLESS, attention, attention_within, check_attention, settled_in
from finetrainers.memory.attention_calls import Call, Layout, record_calls
from finetrainers.memory.attention_choice import Trial, candidates, fastest, try_backends
from finetrainers.memory.attention_trial import TOLERANCES, WrongAnswerError, backend_of, milliseconds
from finetrainers.memory.dense import _Whole
from finetrainers.models import open_model
from finetrainers.models.facts import TextFacts
from finetrainers.models.padding import trim_padding
from finetrainers.training.checks.parts import check_computation

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def layout(*shape: int, dtype: str = "float32") -> Layout:
    """Of heads that lie beside their widths, as those of a linear layer do: [B, H, S, D] of [B, S, H, D]."""
    return Layout.of(torch.empty(shape[0], shape[2], shape[1], shape[3], dtype=getattr(torch, dtype)).transpose(1, 2))


def call_of(queries: int, keys: int, *, mask: Layout | None = None, dtype: str = "float32", **changes: Any) -> Call:
    query, key = layout(1, 2, queries, 8, dtype=dtype), layout(1, 2, keys, 8, dtype=dtype)
    told = {"scale": None, "is_causal": False, "enable_gqa": False, "is_dispatched": False, **changes}
    return Call(query, key, key, mask, **told)


BOOL = Layout("bool", (1, 1, 1, 12), (12, 12, 12, 1), 0)
EXPANDED = Layout("float32", (1, 2, 9, 12), (12, 0, 0, 1), 4)
CALLS = {
    "self": call_of(9, 9),
    "cross": call_of(9, 12),
    "bool mask": call_of(9, 12, mask=BOOL),
    "mask of numbers": call_of(9, 12, mask=EXPANDED),
    "causal, scaled": call_of(9, 9, is_causal=True, scale=0.7),
    "shared keys": replace(call_of(9, 9, enable_gqa=True), query=layout(1, 4, 9, 8)),
    "long": call_of(1500, 40),
    "bfloat16": call_of(65, 65, dtype="bfloat16"),
    "float16": call_of(65, 65, dtype="float16"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("needs_backward", [True, False])
def test_right_backends_pass(name: str, needs_backward: bool) -> None:
    for backend in ("native", "_native_math"):
        assert milliseconds(backend_of(backend), [(CALLS[name], 3)], CPU, needs_backward=needs_backward) > 0


WRONG = [
    ("wrong", "self"),
    ("wrong", "bfloat16"),
    ("wrong_backward", "self"),
    ("undefined", "self"),
    ("without_mask", "bool mask"),
    ("without_mask", "mask of numbers"),
]


@pytest.mark.parametrize(("fake", "call"), WRONG)
def test_wrong_backends_do_not_pass(fake: str, call: str) -> None:
    with pytest.raises(WrongAnswerError, match=r"wrong by .*, where 0\.0"):
        milliseconds(fake_attention.find(fake), [(CALLS["self"], 1), (CALLS[call], 1)], CPU, needs_backward=True)


def test_a_wrong_gradient_does_not_matter_where_there_is_no_backward_pass() -> None:
    assert milliseconds(fake_attention.wrong_backward, [(CALLS["self"], 1)], CPU, needs_backward=False) > 0


def test_calls_are_weighted_by_their_number() -> None:
    few, many = (milliseconds(fake_attention.slow, [(CALLS["self"], n)], CPU, needs_backward=False) for n in (1, 4))
    assert 40 < few < many / 2


def test_times_are_those_of_the_device_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events belong to a stream: that of another GPU would tell nothing of this one."""
    recorded: list[object] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: object = None) -> None:
            recorded.append(stream)

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, _: object) -> float:
            return 1.0

    second = torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    assert attention_trial._timed(lambda: None, second) == 1.0
    assert set(recorded) == {"stream of cuda:1"}


def test_the_tolerances_are_far_from_right_and_from_wrong() -> None:
    for dtype, tolerance in TOLERANCES.items():
        assert 2 * torch.finfo(dtype).eps <= tolerance <= 0.02


def test_tensors_lie_as_those_of_the_call() -> None:
    call = Call.from_json(CALLS["mask of numbers"].to_json())
    assert call == CALLS["mask of numbers"]
    made = call.make(CPU)
    assert made.mask is not None
    for tensor, wanted in ((made.query, call.query), (made.value, call.value), (made.mask, call.mask)):
        assert Layout.of(tensor) == wanted
    assert torch.equal(made.mask[0, 1, 3], torch.tensor(9 * [0.0] + 3 * [-10000.0]))


def test_calls_are_recorded_as_they_are_made() -> None:
    queries, keys = torch.empty(1, 9, 2, 8, device="meta"), torch.empty(1, 12, 16, device="meta").unflatten(2, (2, 8))
    mask = torch.empty(1, 1, 1, 12, device="meta", dtype=torch.bool)

    def forward() -> None:
        asked = [part.transpose(1, 2) for part in (queries, keys, keys)]
        answer = scaled_dot_product_attention(*asked, attn_mask=mask)
        assert answer.shape == (1, 2, 9, 8)
        assert answer.transpose(1, 2).is_contiguous()
        scaled_dot_product_attention(*asked)
        scaled_dot_product_attention(*asked)

    found = record_calls(forward, is_dispatched=False)
    assert found == Counter({CALLS["cross"]: 2, CALLS["bool mask"]: 1})
    assert not record_calls(forward, is_dispatched=True)  # diffusers' dispatcher makes none of these


def test_gradients_are_recorded_as_they_come_back() -> None:
    queries = torch.empty(1, 9, 16, device="meta", requires_grad=True)

    def forward(*, is_whole: bool) -> torch.Tensor:
        parts = [queries.unflatten(2, (2, 8)).transpose(1, 2)] * 3
        answer = scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        answer = _Whole.apply(answer) if is_whole else answer
        return torch.cat([answer, queries], dim=2).square().mean()

    for is_whole, step in ((False, 32), (True, 16)):
        (call,) = record_calls(lambda: forward(is_whole=is_whole), is_dispatched=False, needs_backward=True)  # noqa: B023
        assert call.gradient is not None
        assert call.gradient.stride[-2] == step
        assert call.gradient.is_dense() == is_whole
        assert Call.from_json(json.loads(json.dumps(call.to_json()))) == call
        assert Layout.of(call.make(CPU).gradient) == call.gradient


def test_backends_are_tried_in_processes_that_may_die() -> None:
    names = ["raising", "wrong", "exiting", "slow", "without_backward", "hanging", "right", "aborting"]
    assert str(Path(__file__).parent) in sys.path  # of the child, too
    trials = try_backends(
        Counter({CALLS["self"]: 2, CALLS["bool mask"]: 1}),
        names,
        device=CPU,
        needs_backward=True,
        backends_of="fake_attention:find",
        max_seconds=5,
    )
    found = {trial.backend: trial for trial in trials}
    assert list(found) == names
    assert found["raising"].reason == "RuntimeError: no kernel for this"
    assert str(found["wrong"].reason).startswith("WrongAnswerError: wrong by 0.1")
    assert found["exiting"].reason == "ended its process with status 7"
    assert "does not require grad" in str(found["without_backward"].reason)
    assert found["hanging"].reason == "took more than 5 s"
    assert found["aborting"].reason == "ended its process with status -6"
    assert [trial.backend for trial in trials if trial.milliseconds is not None] == ["slow", "right"]
    assert fastest(trials, "train") == "right"


def test_where_nothing_can_be_tried_the_reason_is_told() -> None:
    asked = Counter({CALLS["self"]: 1})
    trials = try_backends(asked, ["a", "b"], device=CPU, needs_backward=True, backends_of="fake_attention:missing")
    with pytest.raises(
        ConfigError, match=r"attention\.train: auto found no backend .*: a: .*status 1.*missing.*_native_math"
    ):
        fastest(trials, "train")


def test_trials_can_be_interrupted() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        try_backends(Counter({CALLS["self"]: 1}), ["native"], device=CPU, needs_backward=True, interrupt=interrupt)


def test_every_backend_of_diffusers_is_known() -> None:
    """Those without a backward pass, or for other devices, are not taken in training; new ones have to be looked at."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry as Registry

    forward_only = {"_flash_3", "_flash_varlen_3", "flash_4_hub", "aiter_fa2_hub", "_native_npu", "_native_xla"}
    names = {name.value for name in AttentionBackendName}
    assert names == {*TRAINABLE_ATTENTION, *forward_only, *(name for name in names if "sage" in name)}
    sources = {name.value: inspect.getsource(function) for name, function in Registry._backends.items()}
    raising = {name for name, source in sources.items() if "if attn_mask is not None:\n        raise" in source}
    assert raising == set(MASKLESS)


def test_a_cpu_has_nothing_to_choose() -> None:
    for is_dispatched in (True, False):
        assert candidates("train", CPU, is_dispatched=is_dispatched) == ("native",)


def test_candidates_are_exact_installed_and_of_use() -> None:
    for key in ("train", "validate"):
        assert candidates(key, CUDA, is_dispatched=False) == (
            "native",
            "_native_flash",
            "_native_cudnn",
            "_native_efficient",
        )
        found = candidates(key, CUDA, is_dispatched=True)
        assert found[:4] == ("native", "_native_flash", "_native_cudnn", "_native_efficient")
        assert not any("sage" in name for name in found)
    assert set(candidates("train", CUDA, is_dispatched=True)) <= set(TRAINABLE_ATTENTION)


def test_a_backend_that_would_not_be_asked_is_refused() -> None:
    for backend in ("auto", "native", "_native_flash"):
        check_attention("train", backend, is_dispatched=False)
    with pytest.raises(ConfigError, match=r"attention\.validate: 'flex' would change nothing.*set auto, native, or one of"):
        check_attention("validate", "flex", is_dispatched=False)


def test_a_kernel_is_chosen_within_the_denoiser_alone() -> None:
    """And nothing of the choice is left, an error in a forward pass included."""
    seen: dict[str, bool] = {}

    class Asking(torch.nn.Module):
        def forward(self, name: str) -> None:
            seen[name] = torch.backends.cuda.flash_sdp_enabled()
            if name == "fails":
                raise ZeroDivisionError

    denoiser, vae = Asking(), Asking()
    with attention_within([denoiser], "_native_math", is_dispatched=False):
        denoiser("denoiser")
        vae("vae")
        with pytest.raises(ZeroDivisionError):
            denoiser("fails")
        vae("vae after an error")
    denoiser("after")
    assert seen == {"denoiser": False, "vae": True, "fails": False, "vae after an error": True, "after": True}


@pytest.mark.parametrize("is_dispatched", [True, False])
def test_a_choice_is_undone(is_dispatched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName as Name, _AttentionBackendRegistry as Registry

    monkeypatch.setattr(Registry, "_active_backend", Name._NATIVE_EFFICIENT)  # as DIFFUSERS_ATTN_BACKEND sets it

    def state() -> tuple[Any, ...]:
        cuda = torch.backends.cuda
        return Registry.get_active_backend()[0], cuda.flash_sdp_enabled(), cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled()

    before = state()
    for backend in ("auto", "native", *KERNELS):
        with suppress(KeyError), attention(backend, is_dispatched=is_dispatched):
            if is_dispatched:
                assert Registry.get_active_backend()[0] == Name("native" if backend == "auto" else backend)
            raise KeyError
        assert state() == before


def test_backends_without_masks_are_refused_where_there_are_masks(tiny_ltx: Path, tmp_path: Path) -> None:
    model = open_model(ModelConfig(path=str(tiny_ltx), dtype="float32"))

    def check(micro_batch_size: int = 1, **sections: Any) -> None:
        train = {"batch_size": 2, "micro_batch_size": micro_batch_size}
        tree = flux_tree(tiny_ltx, tmp_path, tmp_path, train=train, **sections)
        check_computation(config_of(tree), model)

    check(attention={"train": "_native_flash"})  # one prompt has no padding left
    check(attention={"train": "_native_flash"}, compile={"kind": "regional", "dynamic": True})
    refused = r"attention\.train: '_native_flash' takes no mask, and ltx_video masks the padding of prompts"
    with pytest.raises(ConfigError, match=rf"{refused} where those of a micro-batch .* set train\.micro_batch_size: 1"):
        check(2, attention={"train": "_native_flash"})
    with pytest.raises(ConfigError, match=rf"{refused}, which compile\.kind: regional keeps .* set compile\.dynamic: true"):
        check(attention={"train": "_native_flash"}, compile={"kind": "regional"})
    with pytest.raises(ConfigError, match=r"attention\.validate: '_native_flash' takes no mask.* set auto"):
        check(attention={"validate": "_native_flash"})


def test_prompts_are_cut_to_the_longest() -> None:
    facts, embeds = TextFacts(mask="mask"), torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])

    def trim(rows: slice, mask: torch.Tensor) -> Text:
        return trim_padding({"prompt_embeds": embeds[rows], "mask": mask[rows], "pooled": embeds[rows, 0]}, facts)

    both = trim(slice(0, 2), mask)
    assert torch.equal(both["prompt_embeds"], embeds[:, :3])
    assert torch.equal(both["mask"], mask[:, :3])
    assert torch.equal(both["pooled"], embeds[:, 0])
    alone = trim(slice(0, 1), mask)
    assert torch.equal(alone["prompt_embeds"], embeds[:1, :2])
    assert alone.keys() == {"prompt_embeds", "pooled"}
    hole = trim(slice(0, 1), torch.tensor([[1, 0, 1, 0, 0]]))
    assert torch.equal(hole["mask"], torch.tensor([[1, 0, 1]]))
    nothing = mask * torch.tensor([[1], [0]])  # what is shown no token sees them all
    assert trim(slice(0, 2), nothing)["prompt_embeds"].shape == embeds.shape
    assert trim(slice(0, 2), mask.to("meta"))["mask"].shape == mask.shape  # nobody asks a device
    assert trim_padding({"prompt_embeds": embeds}, TextFacts())["prompt_embeds"] is embeds


# Runs.


@pytest.fixture(scope="module")
def tree(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Two steps."""
    root = tmp_path_factory.mktemp("attention")
    data = write_pictures(root / "data", 4)
    train = {"steps": 2, "batch_size": 2, "micro_batch_size": 1}
    return flux_tree(tiny_flux, data, root, train=train)


MEASURED = {"validation": {"held_out": 0.25, "noise_levels": 1}}


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Give the CPU three backends to choose from, which are tried in this process; the math kernel is the fastest."""
    from finetrainers.training import attention as settling

    asked: list[tuple[Any, ...]] = []

    def try_here(calls: Counter[Call], names: Any, *, device: Any, needs_backward: bool, **_: Any) -> list[Trial]:
        asked.append((calls, names, needs_backward))
        taken = {
            name: milliseconds(backend_of(name), [*calls.items()], device, needs_backward=needs_backward) for name in names
        }
        return [Trial(name, 0.0 if name == "_native_math" else own) for name, own in taken.items()]

    monkeypatch.setattr(settling, "candidates", lambda *_, **__: ("native", "_native_flash", "_native_math"))
    monkeypatch.setattr(settling, "try_backends", try_here)
    return asked


def run(tree: Tree, directory: Path, **sections: Any) -> Path:
    finetrainers.train(config_of(merged(tree, {"output_dir": str(directory), **sections})))
    return directory


MATH = {"train": "_native_math", "validate": "_native_math"}


def test_auto_takes_the_fastest_and_a_resumed_run_keeps_it(tree: Tree, tmp_path: Path, tried: list[Any]) -> None:
    tree = merged(tree, MEASURED)
    named = run(tree, tmp_path / "named", attention=MATH)
    assert not tried
    whole = run(tree, tmp_path / "auto")
    assert curve(whole, "loss", "grad_norm") == curve(named, "loss", "grad_norm")
    losses = [[e["held_out_loss"] for e in events_of(one) if e["event"] == "validation"] for one in (whole, named)]
    assert losses[0] == losses[1]
    (train, _, needs_backward), (validate, _, in_validation) = tried
    assert (needs_backward, in_validation) == (True, False)
    assert all(call.gradient for call in train)
    assert (
        Counter({replace(call, gradient=None): n for call, n in train.items()}) == validate
    )  # of one sample, as micro-batches
    events = [event for event in events_of(whole) if event["event"] == "attention"]
    assert [(event["key"], event["backend"]) for event in events] == [
        ("train", "_native_math"),
        ("validate", "_native_math"),
    ]
    schema = json.loads((Path(finetrainers.__file__).parent / "training/events.schema.json").read_text())
    for event in events:
        jsonschema.Draft202012Validator(schema).validate(event)
        assert event.keys() == schema["properties"].keys() | schema["$defs"]["attention"]["properties"].keys()
    assert [trial["backend"] for trial in events[0]["trials"]] == ["native", "_native_flash", "_native_math"]
    parts = run(tree, tmp_path / "parts", train={"steps": 1})
    run(tree, parts)
    assert len(tried) == 4  # not again when the run went on
    assert curve(parts, "loss", "grad_norm") == curve(whole, "loss", "grad_norm")
    config = config_of(merged(tree, {"output_dir": str(parts)}))
    assert settled_in(config, "validate", CPU) == "_native_math"  # what sampling takes
    assert settled_in(config, "validate", torch.device("meta")) == "native"
    assert settled_in(config_of(merged(tree, {"output_dir": str(named), "attention": MATH})), "train", CPU) == "_native_math"


@pytest.mark.parametrize("change", ['"device": "another"', '"backend": "flash"'])
def test_what_a_run_cannot_have_again_is_tried_anew(change: str, tree: Tree, tmp_path: Path, tried: list[Any]) -> None:
    directory = run(tree, tmp_path / "run", train={"steps": 1})
    file, key = directory / "attention.json", change.partition(":")[0]
    lines = file.read_text().splitlines()
    file.write_text(
        "\n".join(change + line[-1:] * line.endswith(",") if line.strip().startswith(key) else line for line in lines)
    )
    run(tree, directory)
    assert len(tried) == 2
    assert any("tries again" in event["message"] for event in events_of(directory) if event["event"] == "warning")
    assert change not in file.read_text()


def test_the_largest_batch_decides(tree: Tree, tmp_path: Path, tried: list[Any]) -> None:
    large = write_pictures(tmp_path / "large", 2, size=(64, 96))
    sets = [*tree["data"], {"path": str(large), "buckets": [[1, 64, 96]]}]
    run(tree, tmp_path / "run", data=sets, train={"steps": 6})
    ((calls, _, _),) = tried
    assert {call.query.shape[2] for call in calls} == {16 + 24}  # tokens of the prompt, and of the larger picture


def test_a_choice_holds_for_prompts_of_other_lengths_too(
    tiny_ltx: Path, tmp_path: Path, tried: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of one micro-batch that happen to be as long as each other need no mask, and the next ones do."""
    monkeypatch.setattr("finetrainers.training.attention.candidates", lambda *_, **__: ("native", "_native_math"))
    data = write_pictures(tmp_path / "data", 2, size=(64, 64))
    for file in data.glob("*.txt"):
        file.write_text("of one length")
    tree = flux_tree(tiny_ltx, data, tmp_path, train={"steps": 1, "batch_size": 2, "micro_batch_size": 2})
    tree["model"] = {"path": str(tiny_ltx), "dtype": "float32"}
    run(tree, tmp_path / "run")
    ((calls, _, _),) = tried
    assert any(call.mask is not None for call in calls)


def test_on_a_cpu_auto_is_native_without_a_word(tree: Tree, tmp_path: Path) -> None:
    auto, native = run(tree, tmp_path / "auto"), run(tree, tmp_path / "native", attention={"train": "native"})
    assert curve(auto, "loss", "grad_norm") == curve(native, "loss", "grad_norm")
    assert not any(event["event"] == "attention" for event in events_of(auto))
    assert not (auto / "attention.json").exists()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_backends_without_a_backward_pass_measure(tree: Tree, tmp_path: Path) -> None:
    """flex has none on a CPU."""
    flex, native = (
        run(merged(tree, MEASURED), tmp_path / name, attention={"validate": name}, train={"steps": 1})
        for name in ("flex", "native")
    )
    losses = [[e["held_out_loss"] for e in events_of(one) if e["event"] == "validation"] for one in (flex, native)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_dispatched", [True, False])
@pytest.mark.parametrize("key", ["train", "validate"])
def test_on_a_gpu_something_works(key: Any, is_dispatched: bool, dtype: str) -> None:
    def part(tokens: int) -> Layout:
        return Layout.of(torch.empty(1, tokens, 4, 64, dtype=getattr(torch, dtype), device="meta").transpose(1, 2))

    told = {"scale": None, "is_causal": False, "enable_gqa": False, "is_dispatched": is_dispatched}
    calls = Counter(
        {Call(part(1280), part(1280), part(1280), None, **told): 2, Call(part(512), part(77), part(77), None, **told): 1}
    )
    names = candidates(key, CUDA, is_dispatched=is_dispatched)
    trials = try_backends(calls, names, device=CUDA, needs_backward=key == "train")
    assert [trial.backend for trial in trials] == list(names)
    assert fastest(trials, key) in names
    assert float(torch.ones(2, device=CUDA).sum()) == 2  # whatever became of the others


@pytest.mark.gpu
def test_on_a_gpu_auto_trains(tree: Tree, tmp_path: Path) -> None:
    directory = run(merged(tree, MEASURED), tmp_path / "run", model={"dtype": "bfloat16"}, train={"device": "cuda"})
    assert {event["key"] for event in events_of(directory) if event["event"] == "attention"} == {"train", "validate"}
    assert (directory / "attention.json").exists()
