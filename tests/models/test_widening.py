"""Denoisers that take control: what they answer before training, and that each control channel meets its own weights."""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CAPTION, Case, all_cases, load_pipeline
from PIL import Image
from torch import Tensor, nn

from finetrainers.batch import Prompt, cast_floats
from finetrainers.conditioning.widen import widen_input, widened_settings
from finetrainers.config import ModelConfig
from finetrainers.errors import ModelError
from finetrainers.models import Model, open_model
from finetrainers.models.experts import expert_of

CASES = all_cases()
FIRSTS = {(case.family, case.task): name for name, case in reversed(CASES.items())}.values()
KINDS = {
    "a linear layer": "flux dev text-to-image",
    "a convolution of pictures": "cogvideox 2b text-to-video",
    "a convolution of clips": "wan 2.1-i2v image-to-video",
}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class ModelUnderTest:
    """A model, and two rows of what its denoiser is told."""

    model: Model
    prompt: Prompt
    noisy: Tensor
    """[2, C, F, H, W]."""
    sigma: Tensor
    """[2, F]: of models with experts, one row for each."""

    def load(self, dtype: torch.dtype = torch.float32) -> Any:
        """What is trained."""
        config = self.model.pretrained.config
        return open_model(ModelConfig(**{**dict(config), "dtype": str(dtype).removeprefix("torch.")})).load_denoiser()

    def widen(self, denoiser: Any, extra: int) -> Any:
        """A copy that takes control."""
        wide = copy.deepcopy(denoiser)
        for part in self.model.denoisers.split(wide).values():
            widen_input(part, self.model.adapter, extra)
        return wide

    def layers(self, denoiser: Any) -> list[Any]:
        """The input layer of each part."""
        parts = self.model.denoisers.split(denoiser).values()
        return [part.get_submodule(self.model.adapter.input_layer) for part in parts]

    def control(self, extra: int) -> Tensor:
        """[2, E, F, H, W]."""
        shape = len(self.noisy), extra, *self.noisy.shape[2:]
        return torch.randn(shape, generator=torch.Generator().manual_seed(extra))

    def answer(self, denoiser: Any, *channels: Tensor, rows: slice = slice(2), dtype: torch.dtype = torch.float32) -> Tensor:
        """What the denoiser answers to noisy latents with these channels behind them, and check its shape.

        Of two experts each is asked for its row.
        """
        numbers = range(2)[rows]
        if len(self.model.denoisers.trained) > 1 and len(numbers) > 1:
            return torch.cat([self.answer(denoiser, *channels, rows=slice(n, n + 1), dtype=dtype) for n in numbers])
        x, prompt = torch.cat([self.noisy, *channels], dim=1)[rows].to(dtype), self.prompt.rows(rows)
        text, image = ({k: cast_floats(v, dtype) for k, v in part.items()} for part in (prompt.text, prompt.image))
        told = Prompt(text, prompt.fps, image, prompt.given)
        answer = self.model.adapter.denoise(expert_of(denoiser, self.sigma[rows].amax(1)), x, self.sigma[rows], told)
        assert answer.shape == self.noisy[rows].shape
        return answer


@pytest.fixture(scope="module")
def subject_of(tiny: Callable[[str, str], Path]) -> Callable[[str], ModelUnderTest]:
    """Each case once. Shared: what it loads is the test's own."""

    @cache
    @torch.no_grad()
    def make(name: str) -> ModelUnderTest:
        case = CASES[name]
        model = case.open(tiny(case.family, case.variant))
        shape = model.adapter.grid.latent_shape(case.size)
        generator = torch.Generator().manual_seed(0)
        sigma = torch.tensor([[0.95], [0.3]]).repeat(1, shape[1])
        if model.adapter.gives_first_frame(case.task):
            sigma[:, 0] = 0
        return ModelUnderTest(model, encode(case, model), torch.randn(2, *shape, generator=generator), sigma)

    return make


def encode(case: Case, model: Model) -> Prompt:
    """Two prompts, given the same frames, as samples of a step are given equally many."""
    pipeline = load_pipeline(model)
    clips = torch.randint(0, 256, (2, *case.size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    seen = [Image.fromarray(clip[0].numpy()) for clip in clips]
    text = model.encode_text(pipeline, [CAPTION, "a dog"], seen, device=CPU)
    image = model.adapter.encode_image(pipeline, clips, task=case.task) if model.takes_image else {}
    given = None
    if case.given is not None:
        given = torch.zeros(2, model.adapter.grid.latent_shape(case.size)[1], dtype=torch.bool)
        given[:, list(case.given)] = True
    return Prompt(text, torch.full((2,), case.fps), image, given)


@contextmanager
def recorded(denoiser: Any, layer: nn.Module) -> Iterator[tuple[list[dict[str, Any]], list[Tensor]]]:
    """What a denoiser is told, and what its layer answers."""
    told: list[dict[str, Any]] = []
    answers: list[Tensor] = []
    hooks = [
        denoiser.register_forward_pre_hook(lambda _module, _args, kwargs: told.append(kwargs), with_kwargs=True),
        layer.register_forward_hook(lambda _module, _args, output: answers.append(output)),
    ]
    yield told, answers
    for hook in hooks:
        hook.remove()


def cell(name: str, dtype: torch.dtype) -> Any:
    """All in float32, and the first of each family and task in bfloat16; the others are for `make test-long`."""
    marks = [pytest.mark.long] if dtype == torch.bfloat16 and name not in FIRSTS else []
    return pytest.param(name, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}", marks=marks)


@pytest.mark.parametrize(
    ("name", "dtype"), [cell(name, dtype) for name in CASES for dtype in (torch.float32, torch.bfloat16)]
)
@torch.no_grad()
def test_before_training_control_changes_no_bit(
    name: str, dtype: torch.dtype, subject_of: Callable[[str], ModelUnderTest]
) -> None:
    """With the mask's channel or without, for one row and for two; what trains is in float32."""
    subject = subject_of(name)
    plain = copy.deepcopy(
        subject.load(dtype)
    )  # kernels look at how weights lie in memory: those read from files lie otherwise
    for extra in (subject.noisy.shape[1], subject.noisy.shape[1] + 1):
        wide = subject.widen(plain, extra)
        for layer in subject.layers(wide):
            assert layer.weight.dtype == dtype
            layer.float()
        for rows in (slice(1), slice(2)):
            expected = subject.answer(plain, rows=rows, dtype=dtype)
            assert torch.equal(subject.answer(wide, subject.control(extra), rows=rows, dtype=dtype), expected)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_each_control_channel_meets_its_own_weights(name: str, subject_of: Callable[[str], ModelUnderTest]) -> None:
    """The widened layer is the plain one on the noisy latents plus another plain one, without a bias, on the control."""
    subject, row = subject_of(name), slice(1)
    adapter, channels = subject.model.adapter, subject.noisy.shape[1]
    plain = subject.load()
    wide, other = subject.widen(plain, channels), copy.deepcopy(plain)
    parts = [next(iter(subject.model.denoisers.split(denoiser).values())) for denoiser in (plain, wide, other)]
    layers = [subject.layers(denoiser)[0] for denoiser in (plain, wide, other)]
    columns = channels if layers[0].weight.ndim > 2 else channels * adapter.grid.values_per_channel
    layers[2].weight.normal_(generator=torch.Generator().manual_seed(2))
    if layers[2].bias is not None:
        layers[2].bias.zero_()
    layers[1].weight[:, columns : 2 * columns] = layers[2].weight[:, :columns]
    control = subject.control(channels)
    with recorded(parts[0], layers[0]) as (told, noisy_part):
        subject.answer(plain, rows=row)
    with recorded(parts[1], layers[1]) as (_, both):
        before = subject.answer(wide, control, rows=row)
    hidden = told[0]["hidden_states"]
    arranged = adapter.arrange(control[row])
    alone = torch.zeros_like(hidden)  # also where the task's own channels are, and tokens of given frames before the clip's
    inside = alone[:, -arranged.shape[1] :] if adapter.channel_dim == -1 else alone
    inside.narrow(adapter.channel_dim, 0, arranged.shape[adapter.channel_dim]).copy_(arranged)
    with recorded(parts[2], layers[2]) as (_, control_part):
        parts[2](**{**told[0], "hidden_states": alone})
    torch.testing.assert_close(both[0], noisy_part[0] + control_part[0], rtol=0, atol=1e-5 * float(both[0].abs().max()))

    control[0, 1, -1, 1, 0] += 1  # one value of one channel
    with recorded(parts[1], layers[1]) as (_, changed):
        after = subject.answer(wide, control, rows=row)
    is_changed = (changed[0] != both[0]).any(-1 if layers[1].weight.ndim == 2 else 1)
    assert is_changed.sum() == 1  # token
    assert not torch.equal(after, before)


@pytest.mark.parametrize("name", CASES)
def test_channels_stay_apart_and_in_order(name: str, subject_of: Callable[[str], ModelUnderTest]) -> None:
    subject = subject_of(name)
    adapter, noisy, control = subject.model.adapter, subject.noisy, subject.control(subject.noisy.shape[1] + 1)
    parts = [adapter.arrange(part) for part in (noisy, control)]
    assert torch.equal(adapter.arrange(torch.cat([noisy, control], dim=1)), torch.cat(parts, adapter.channel_dim))


@pytest.mark.parametrize("name", CASES)
def test_the_exported_config_makes_the_widened_denoiser(name: str, subject_of: Callable[[str], ModelUnderTest]) -> None:
    subject = subject_of(name)
    plain = subject.load()
    for extra in (subject.noisy.shape[1], subject.noisy.shape[1] + 1):
        wide = subject.widen(plain, extra)
        for part, layer in zip(subject.model.denoisers.split(wide).values(), subject.layers(wide), strict=True):
            changes = widened_settings(part.config, subject.model.adapter, extra)
            with torch.device("meta"):
                shell = type(part).from_config({**part.config, **changes})
            assert {k: v.shape for k, v in shell.state_dict().items()} == {k: v.shape for k, v in part.state_dict().items()}
            assert layer.extra_repr() == shell.get_submodule(subject.model.adapter.input_layer).extra_repr()


@pytest.mark.parametrize("trains", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
def test_the_layer_stays_what_it_was(name: str, trains: bool, subject_of: Callable[[str], ModelUnderTest]) -> None:
    """Names, types, whether weights train, evaluation; and nothing is drawn."""
    subject = subject_of(name)
    plain = subject.load(torch.bfloat16)
    (old,) = subject.layers(plain)
    old.weight.requires_grad_(trains)
    state = torch.get_rng_state()
    wide = subject.widen(plain, 3)
    assert torch.equal(torch.get_rng_state(), state)
    (new,) = subject.layers(wide)
    facts = [{n: (p.dtype, p.device, p.requires_grad) for n, p in each.named_parameters()} for each in (plain, wide)]
    assert list(facts[0].items()) == list(facts[1].items())
    assert list(wide.state_dict()) == list(plain.state_dict())
    assert isinstance(new, type(old))
    assert (new.training, wide.config) == (old.training, plain.config)


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
def test_the_layer_trains_in_float32_and_computes_in_the_type_of_its_input(
    name: str, subject_of: Callable[[str], ModelUnderTest]
) -> None:
    subject = subject_of(name)
    wide = subject.widen(subject.load(torch.bfloat16), 3)
    (layer,) = subject.layers(wide)
    layer.float().requires_grad_(True)
    twin = copy.deepcopy(layer)
    x = torch.randn(2, *layer.weight.shape[1:], generator=torch.Generator().manual_seed(0)).bfloat16()
    answer = layer(x if layer.weight.ndim > 2 else x[None])
    assert answer.dtype == torch.bfloat16
    answer.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert (layer.weight.grad != 0).all()
    with torch.no_grad():
        twin.weight.zero_()
    assert twin.weight.grad is None
    assert layer.weight.any()
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(x if layer.weight.ndim > 2 else x[None]), answer)


@pytest.mark.parametrize("extra", [1, 4])
def test_what_cannot_be_widened_is_refused(extra: int, subject_of: Callable[[str], ModelUnderTest]) -> None:
    subject = subject_of(KINDS["a linear layer"])
    wide = subject.widen(subject.load(), extra)
    message = "FluxTransformer2DModel.x_embedder is a WideLinear: control can widen nn.Linear, "
    with pytest.raises(ModelError, match=re.escape(message)):
        widen_input(wide, subject.model.adapter, extra)
