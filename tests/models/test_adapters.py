"""Tables of facts, sizes, and finding a model; test_exactness.py and test_contract.py run over all families."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CAPTION, Recorder, load_pipeline
from runs import config_of, flux_tree

from finetrainers import LatentFacts
from finetrainers.batch import Prompt
from finetrainers.config import ModelConfig
from finetrainers.errors import ConfigError, FinetrainersError, ModelError
from finetrainers.models import Request, adapters, open_model
from finetrainers.models.flux import pack, unpack
from finetrainers.models.registry import load_adapter
from finetrainers.models.vae import latent_statistics
from finetrainers.testing import CHECKS, make_tiny
from finetrainers.testing.model_under_test import ModelUnderTest
from finetrainers.testing.tiny import FACTORIES
from finetrainers.training.checks.parts import check_tuning

VARIANTS = [(family, variant) for family, variants in FACTORIES.items() for variant in variants]


@torch.no_grad()
def test_ltx_is_told_the_frame_rate(tiny_ltx: Path) -> None:
    model = open_model(ModelConfig(path=str(tiny_ltx), dtype="float32", max_sequence_length=16))
    pipeline = load_pipeline(model)
    x = torch.randn(1, *model.adapter.grid.latent_shape((17, 64, 64)), generator=torch.Generator().manual_seed(3))
    text = model.adapter.encode_prompt(pipeline, [CAPTION], max_length=16, device=torch.device("cpu"))
    levels = torch.full((1, x.shape[2]), 0.5)
    slow, fast = (
        model.adapter.denoise(pipeline.transformer, x, levels, Prompt(text, torch.tensor([fps]))) for fps in (10.0, 25.0)
    )
    assert not torch.equal(slow, fast)


@torch.no_grad()
def test_ltx_takes_a_noise_level_for_each_frame(tiny_ltx: Path) -> None:
    """As LTXImageToVideoPipeline does: time step 0 for the tokens of the given frame, the others' for all others."""
    model = open_model(ModelConfig(path=str(tiny_ltx), dtype="float32", max_sequence_length=16))
    pipeline = load_pipeline(model)
    recorder = Recorder(pipeline.transformer)
    x = torch.randn(1, *model.adapter.grid.latent_shape((17, 64, 64)))
    text = model.adapter.encode_prompt(pipeline, [CAPTION], max_length=16, device=torch.device("cpu"))
    model.adapter.denoise(recorder, x, torch.tensor([[0.0, 0.5, 0.5]]), Prompt(text, torch.tensor([25.0])))
    assert recorder.calls[0]["timestep"].tolist() == [[0.0] * 4 + [500.0] * 8]


def test_packing_is_undone() -> None:
    x = torch.randn(2, 4, 6, 8)
    assert torch.equal(unpack(pack(x), 3, 4), x)


@pytest.mark.parametrize("name", sorted(adapters()))
def test_the_table_of_facts_is_that_of_the_model(name: str, tmp_path: Path) -> None:
    """Block classes, input layer and LoRA targets exist in the real transformer class."""
    model = open_model(ModelConfig(path=str(make_tiny(name, tmp_path / "model")), dtype="float32"))
    denoiser = model.pretrained.load(model.adapter.denoiser)
    classes = {type(module).__name__ for module in denoiser.modules()}
    assert classes & set(model.adapter.blocks)
    projections = torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d
    assert isinstance(denoiser.get_submodule(model.adapter.input_layer), projections)
    names = [name for name, module in denoiser.named_modules() if isinstance(module, torch.nn.Linear)]
    assert all(any(name.endswith(f".{target}") for name in names) for target in model.adapter.lora_targets)


@pytest.mark.parametrize(("family", "variant"), VARIANTS)
def test_the_grid_is_that_of_the_vae(family: str, variant: str, tiny: Callable[[str, str], Path]) -> None:
    from finetrainers.models.vae import encode_pixels

    model = open_model(ModelConfig(path=str(tiny(family, variant)), dtype="float32"))
    vae = model.pretrained.load("vae")
    grid = model.adapter.grid
    for size in {grid.nearest(wanted) for wanted in ((1, 64, 96), (17, 96, 64))}:
        assert grid.nearest(size) == size
        pixels = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
        mean, std = encode_pixels(vae, model.adapter, pixels)
        assert mean.shape == (1, *model.adapter.grid.encoded_shape(size))
        assert (std is not None) == model.adapter.latents.samples_posterior
        assert std is None or std.shape == mean.shape


@pytest.mark.parametrize(("family", "variant"), VARIANTS)
def test_normalized_latents_go_back_to_the_picture_through_the_pipeline(
    family: str, variant: str, tiny: Callable[[str, str], Path]
) -> None:
    """The pipeline decodes what training calls latents: scale and shift are undone exactly as they were done."""
    from finetrainers.models.vae import encode_pixels

    model = open_model(ModelConfig(path=str(tiny(family, variant)), dtype="float32"))
    pipeline = load_pipeline(model)
    size = model.adapter.grid.nearest((9, 64, 64))
    pixels = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    mean = encode_pixels(pipeline.vae, model.adapter, pixels)[0]
    with torch.no_grad():
        raw = pixels.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        theirs = pipeline.vae.encode(raw[:, :, 0] if model.adapter.latents.is_image_vae else raw).latent_dist.mode()
    config = pipeline.vae.config
    match model.adapter.latents.statistics:
        case "shift_scale":
            ours = mean / config.scaling_factor + (config.get("shift_factor") or 0)
        case "buffers":
            stats = pipeline.vae.latents_mean, pipeline.vae.latents_std
            ours = pipeline._denormalize_latents(mean, *stats, config.scaling_factor)
        case "config":
            center, spread = (torch.tensor(config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
            ours = mean * spread + center
    torch.testing.assert_close(ours[:, :, 0] if model.adapter.latents.is_image_vae else ours, theirs, rtol=1e-4, atol=1e-5)


def test_impossible_sizes_have_a_nearest(tiny_ltx: Path) -> None:
    grid = open_model(ModelConfig(path=str(tiny_ltx))).adapter.grid
    assert grid.nearest((8, 500, 701)) == (9, 512, 704)
    assert grid.nearest((1, 10, 10)) == (1, 32, 32)
    assert grid.num_tokens((49, 512, 768)) == 7 * 16 * 24


def test_family_and_task_follow_from_the_model(tiny_flux: Path, tiny_ltx: Path) -> None:
    assert open_model(ModelConfig(path=str(tiny_flux))).task == "text-to-image"
    model = open_model(ModelConfig(path=str(tiny_ltx), task="image-to-video"))
    assert (model.adapter.name, model.pipeline_class) == ("ltx_video", "LTXImageToVideoPipeline")


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"family": "fluxx"}, ConfigError, "model.family: there is no family 'fluxx'; did you mean 'flux'"),
        ({"task": "text-to-video"}, ConfigError, "model.task: flux has no task 'text-to-video'; it has text-to-image"),
        ({"components": {"vea": {}}}, ConfigError, "no component 'vea'; it has .*vae"),
        ({"adapter": "nothing.py:X"}, ConfigError, "model.adapter: the file of 'nothing.py:X' cannot be read"),
    ],
)
def test_what_is_wrong_with_a_model_is_said(tiny_flux: Path, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_model(ModelConfig(path=str(tiny_flux), **options))


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a folder that exists nor a Hub id"):
        open_model(ModelConfig(path=str(tmp_path / "nothing")))
    with pytest.raises(ModelError, match=r"model_index\.json; is this a pipeline in diffusers layout"):
        open_model(ModelConfig(path=str(tmp_path)))
    with pytest.raises(ModelError, match=r"some/model \(revision main\): cannot download model_index\.json: the Hub "):
        open_model(ModelConfig(path="some/model"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "GatedRepoError",
            r"some/model .*: accept its licence at https://huggingface\.co/some/model, and log in with `hf auth login`$",
        ),
        (
            "RepositoryNotFoundError",
            r"some/model .*: there is no such model, or it is private: .*`hf auth login`",
        ),
    ],
)
def test_a_model_that_the_hub_does_not_give_says_what_to_do(
    kind: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx
    import huggingface_hub

    def refuse(*_: Any, **__: Any) -> str:
        response = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co"))
        raise getattr(huggingface_hub.errors, kind)("403 Client Error", response=response)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ModelError, match=message):
        open_model(ModelConfig(path="some/model"))


def test_a_component_from_elsewhere(tiny_flux: Path, tmp_path: Path) -> None:
    """Another transformer over the same pipeline, in a folder of its own or as a part of another pipeline."""
    other = make_tiny("flux", tmp_path / "other", seed=7)
    for component in ({"path": str(other / "transformer")}, {"path": str(other), "subfolder": "transformer"}):
        model = open_model(ModelConfig(path=str(tiny_flux), dtype="float32", components={"transformer": component}))
        weight = model.pretrained.load("transformer").proj_out.weight
        own = open_model(ModelConfig(path=str(tiny_flux), dtype="float32")).pretrained.load("transformer").proj_out.weight
        theirs = open_model(ModelConfig(path=str(other), dtype="float32")).pretrained.load("transformer").proj_out.weight
        assert torch.equal(weight, theirs)
        assert not torch.equal(weight, own)


def test_a_data_type_for_each_component(tiny_flux: Path) -> None:
    model = open_model(ModelConfig(path=str(tiny_flux), dtype="bfloat16", components={"vae": {"dtype": "float32"}}))
    assert model.pretrained.load("vae").dtype == torch.float32
    assert model.pretrained.load("transformer").dtype == torch.bfloat16
    assert model.pretrained.load("text_encoder").dtype == torch.bfloat16


def test_an_adapter_of_ones_own_is_one_file(tiny_flux: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from finetrainers.models.flux import Flux\n\n\nclass Mine(Flux):\n    lora_targets = ('proj_out',)\n")
    model = open_model(ModelConfig(path=str(tiny_flux), adapter=f"{file}:Mine"))
    assert model.adapter.lora_targets == ("proj_out",)
    assert model.adapter.name == "mine"


@torch.no_grad()
@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (("FluxTransformrBlock",), "Mine: blocks: .* is the class of no module of FluxTransformer2DModel; "
         r"did you mean 'FluxTransformerBlock'\?"),
        (("FluxPosEmbed2", "FluxTransformerBlock"), "'FluxPosEmbed2' is the class of no module"),
        (("FluxAttnProcessor",), "'FluxAttnProcessor' is the class of no module of .*did you mean 'FluxTransformerBlock'"),
    ],
)  # fmt: skip
def test_blocks_that_a_denoiser_has_not_are_refused(
    blocks: tuple[str, ...], message: str, tiny_flux: Path, tmp_path: Path
) -> None:
    """Nothing would be checkpointed, offloaded, sharded or compiled, and nothing would be said."""
    config = config_of(flux_tree(tiny_flux, tmp_path, tmp_path))
    model = open_model(config.model)
    wrong = type("Mine", (type(model.adapter),), {"blocks": blocks})
    with pytest.raises(ModelError, match=message):
        check_tuning(config, replace(model, adapter=wrong(model.adapter.vae, model.adapter.settings)))


def test_blocks_that_are_left_out_are_found_by_the_checks(tiny_flux: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from finetrainers.models.flux import Flux\n\n\nclass Mine(Flux):\n    blocks = ('FluxTransformerBlock',)\n"
    )
    subject = ModelUnderTest({"path": str(tiny_flux), "adapter": f"{file}:Mine"}, size=(1, 64, 96), folder=tmp_path)
    with pytest.raises(AssertionError, match="transformer repeats FluxSingleTransformerBlock, which blocks does not name"):
        CHECKS["blocks_are_all_that_repeat"](subject)


WRONG_FACTS = {
    "pipelines = {'text-to-image': 'FluxPipelin'}": "Mine: pipelines: diffusers has no 'FluxPipelin' .* 'FluxPipeline'",
    "pipelines = {}": r"Mine: pipelines: \{\} names no task; state pipelines = ",
    "text = 512": r"Mine: text: 512 is no TextFacts; state text = TextFacts\(\.\.\.\)",
    "blocks = 'FluxTransformerBlock'": r"Mine: blocks: 'FluxTransformerBlock' is one name; state a tuple",
    "training = TrainingFacts(noise_levels=NoiseLevels('lognormal'))": "'lognormal' is no kind .* uniform, logit_normal",
}


@pytest.mark.parametrize("fact", WRONG_FACTS)
def test_a_wrong_fact_is_one_message_with_the_class_and_the_fact(fact: str, tiny_flux: Path, tmp_path: Path) -> None:
    head = "from finetrainers import NoiseLevels, TrainingFacts\nfrom finetrainers.models.flux import Flux\n\n\n"
    (tmp_path / "mine.py").write_text(f"{head}class Mine(Flux):\n    {fact}\n")
    with pytest.raises(FinetrainersError, match=WRONG_FACTS[fact]):
        open_model(ModelConfig(path=str(tiny_flux), adapter=f"{tmp_path / 'mine.py'}:Mine"))


def test_facts_that_are_left_out_are_named_together(tiny_flux: Path, tmp_path: Path) -> None:
    bodies = "\n".join(f"    def {name}(self, *a, **k): ..." for name in ("make_grid", "encode_prompt", "denoise"))
    (tmp_path / "mine.py").write_text(f"import finetrainers\n\n\nclass Mine(finetrainers.ModelAdapter):\n{bodies}\n")
    with pytest.raises(ModelError, match=r"Mine: it does not state pipelines, blocks, input_layer, training; add "):
        open_model(ModelConfig(path=str(tiny_flux), adapter=f"{tmp_path / 'mine.py'}:Mine"))


@pytest.mark.parametrize(("statistics", "missing"), [("buffers", "buffer"), ("config", r"entry in its config\.json")])
def test_statistics_that_the_vae_has_not_are_refused(statistics: Any, missing: str, tiny_flux: Path) -> None:
    model = open_model(ModelConfig(path=str(tiny_flux), dtype="float32"))
    model.adapter.latents = LatentFacts(statistics=statistics, is_image_vae=True)
    with pytest.raises(ModelError, match=rf"Flux: latents\.statistics: '{statistics}', but .* no {missing} latents_mean"):
        latent_statistics(model.pretrained.load("vae"), model.adapter)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(2, 3, 4), "returns a Tensor; return a mapping of names to tensors"),
        ({"a": [1, 2]}, "returns a list as 'a'; return a mapping"),
        ({"a": torch.zeros(1, 3, 4)}, r"returns 'a' of shape \[1, 3, 4\] for 2 captions"),
    ],
)
def test_encoded_prompts_that_are_none_are_refused(answer: Any, message: str, tiny_flux: Path) -> None:
    model = open_model(ModelConfig(path=str(tiny_flux)))
    vars(model.adapter)["encode_prompt"] = lambda *_, **__: answer
    with pytest.raises(ModelError, match=f"Flux: encode_prompt {message}"):
        model.encode_text(None, ["a", "b"], [], device=torch.device("cpu"))


def test_a_request_with_an_image_is_drawn_by_the_image_pipeline(tiny_ltx: Path, tmp_path: Path) -> None:
    from PIL import Image

    from finetrainers.sampling.sampler import Sampler

    Image.new("RGB", (80, 70), "red").save(tmp_path / "start.png")
    model = open_model(ModelConfig(path=str(tiny_ltx), dtype="float32", max_sequence_length=16))
    whole = load_pipeline(model)
    sampler = Sampler(model, {"transformer": whole.transformer, "vae": whole.vae}, torch.device("cpu"))

    def encode(caption: str) -> Any:
        return model.adapter.encode_prompt(whole, [caption], max_length=16, device=torch.device("cpu"))

    request = Request("a dog", size=(9, 64, 64), steps=2, seed=0, image=str(tmp_path / "start.png"))
    assert type(sampler.pipeline(request)).__name__ == "LTXImageToVideoPipeline"
    file = sampler.draw(request, encode, tmp_path / "video")
    from finetrainers.data.media.files import probe

    found = probe(file)
    assert (found.num_frames, found.height, found.width, found.fps) == (9, 64, 64, 25.0)


@pytest.mark.parametrize(("family", "variant"), VARIANTS)
def test_each_component_of_a_hub_model_is_known_by_its_commit(
    family: str, variant: str, tiny: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that is asked for is one that a repository of this component has."""
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc123"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(tiny(family, variant))

    def download(repo: str, name: str, *, subfolder: str | None, revision: str | None) -> str:
        file = snapshot / (subfolder or "") / name
        if not file.is_file():
            raise OSError(f"{repo} has no {subfolder}/{name}")
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(Path, "resolve", lambda self: self)  # the Hub's snapshots link files, not folders
    model = open_model(ModelConfig(path="some/model"))
    components = [name for name, value in model.pretrained.index.items() if isinstance(value, list) and value[0]]
    assert {model.pretrained.commit(name) for name in components} == {"abc123"}


def test_latents_of_other_padding_have_other_names(tiny: Callable[[str, str], Path], tmp_path: Path) -> None:
    """CogVideoX 1.5 pads the latent frames of a clip, 1.0 does not: with one VAE, they still share no latents."""
    old, new = (tiny("cogvideox", variant) for variant in ("5b", "1.5-5b"))
    names = set()
    for path in (old, new):
        components = {"vae": {"path": str(old), "subfolder": "vae"}}
        subject = ModelUnderTest({"path": str(path), "components": components}, (9, 64, 64), tmp_path / path.name)
        names.add(subject.prepared.encoder.identities()[0])
    assert len(names) == 2


OWN_ADAPTER = """
from __future__ import annotations
from dataclasses import dataclass
from finetrainers.models.flux import Flux

@dataclass
class Facts:
    depth: int

class Mine(Flux):
    facts = Facts(3)
"""


def test_a_users_adapter_may_stand_beside_dataclasses_with_late_annotations(tmp_path: Path) -> None:
    """Dataclasses look up the module of such annotations by its name."""
    (tmp_path / "my_flux.py").write_text(OWN_ADAPTER)
    adapter = load_adapter(f"{tmp_path / 'my_flux.py'}:Mine")
    assert issubclass(adapter, adapters()["flux"])
    assert adapter.name == "my_flux"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("mine.py", "'mine.py' is not path/to/file.py:name"),
        ("mine.py:", "'mine.py:' is not path/to/file.py:name"),
        ("~nobody-of-this-name/mine.py:Mine", "cannot be read (Could not determine home directory"),
        ("a\0b.py:Mine", "cannot be read"),
    ],
)
def test_a_place_that_names_no_file_is_refused_with_the_way_out(place: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^model\.adapter: ") as refused:
        load_adapter(place)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OWN_ADAPTER.replace("Mine", "Yours"), "has no ModelAdapter 'Mine'; define it"),
        ("Mine = 3", "has no ModelAdapter 'Mine'; define it"),
        ("class Mine: pass", "Mine is in the file, but is not a subclass of ModelAdapter; derive it from"),
        ("import nowhere", r"fails when it is imported \(ModuleNotFoundError: .*nowhere.*\); correct it"),
        (None, "cannot be read .* name one that exists, as path/to/file.py:name"),
    ],
)
def test_a_users_adapter_that_is_none_is_refused_with_the_way_out(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=rf"model\.adapter: .*mine\.py.* {message}"):
        load_adapter(f"{tmp_path / 'mine.py'}:Mine")
