"""Errors that are planted in a run which would train: what a rehearsal has to find, and where a run would have met each."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from media_factory import truncate, write_counter
from PIL import Image
from runs import Tree, adapter_file, merged, write_pictures
from safetensors.torch import load_file, save_file

Where = Literal["start", "planning", "encoding", "loading", "first step", "validation", "saving", "end"]
"""Which part of a run it ends. Planning is once all is on the machine, and opens all media; encoding takes minutes to hours, and
loading and what follows come after that."""
MB = 10**6


@dataclass
class Work:
    """A run that would train, in a folder of its own."""

    root: Path
    tree: Tree
    model: Path
    """Tiny Flux; shared, so that a plant takes a copy to change."""
    ltx: Path
    patch: pytest.MonkeyPatch
    stack: ExitStack
    finished: Callable[[], Path]
    """Makes the directory of a run of this configuration that took two steps."""
    processes: int | None = None
    free: int | None = None

    @property
    def data(self) -> Path:
        return self.root / "data"

    def change(self, **sections: Any) -> None:
        self.tree = merged(self.tree, sections)

    def own_model(self) -> Path:
        """A copy of the model that may be changed."""
        copy = self.root / "model"
        shutil.copytree(self.model, copy)
        self.change(model={"path": str(copy)})
        return copy

    def code(self, text: str) -> str:
        file = self.root / "mine.py"
        file.write_text(text)
        return str(file)

    def clips(self, frames: int = 9, bucket: int = 9) -> Path:
        """Clips and a model for them in place of the pictures."""
        clips = self.root / "clips"
        clips.mkdir()
        for number in range(3):
            write_counter(clips / f"{number}.mp4", frames + number)
            (clips / f"{number}.txt").write_text(f"clip {number}")
        self.change(model={"path": str(self.ltx)}, data=[{"path": str(clips), "buckets": [[bucket, 64, 64]], "fps": None}])
        return clips

    def metadata(self, rows: list[dict[str, str]], **keys: Any) -> None:
        (self.data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for caption in self.data.glob("*.txt"):
            caption.unlink()
        self.change(data=[{**self.tree["data"][0], "path": str(self.data / "metadata.jsonl"), **keys}])

    def controls(self) -> Path:
        """A folder of control pictures, and the key that reads it."""
        folder = write_pictures(self.root / "control", 4, seed=5)
        for caption in folder.glob("*.txt"):
            caption.unlink()
        data = [{**self.tree["data"][0], "control_path": str(folder)}]
        self.change(data=data, conditioning={"kind": "channel_concat", "signal": "files"})
        return folder

    def prompts(self, *rows: dict[str, Any]) -> None:
        (self.root / "prompts.json").write_text(json.dumps(rows))
        self.change(validation={"prompts": str(self.root / "prompts.json")})


@dataclass(frozen=True)
class Planted:
    """One error."""

    name: str
    """As the table of the docs says it."""
    kind: Literal["config", "data", "model", "disk", "permissions", "processes"]
    where: Where
    plant: Callable[[Work], object]
    message: str
    """A regular expression that the rehearsal's error matches: the key to change is in it."""
    trains: bool = True
    """Whether the test lets ``train`` run into the error, too; not what would take a full disk, a network or more processes."""
    is_long: bool = False
    """Whether the twin has to run to find it on several processes."""
    before: Where | None = None
    """Where ``train`` ended before it looked for this itself, as it does since."""
    twin: bool = field(default=False)
    """Whether the twin finds it."""


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


def _drop_layer(work: Work) -> None:
    file = work.own_model() / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_layers": 3}))


def _reshape(work: Work) -> None:
    file = work.own_model() / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["x_embedder.weight"] = torch.zeros(32, 64)
    save_file(tensors, file)


def _other_encoder(work: Work) -> None:
    """A text encoder of another width than the denoiser takes, in a folder of its own."""
    from transformers import T5Config, T5EncoderModel

    own = T5Config.from_pretrained(work.model / "text_encoder_2")
    own.d_model = 80
    T5EncoderModel(own).save_pretrained(work.root / "t5")
    work.change(model={"components": {"text_encoder_2": {"path": str(work.root / "t5")}}})


def _edit_index(work: Work) -> None:
    file = work.own_model() / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "transformer": ["diffusers", "FluxTransformer9DModel"]}))


def _cut_control(work: Work) -> None:
    cut(work.controls() / "03.png")


def _missing_control(work: Work) -> None:
    (work.controls() / "03.png").unlink()


def _cut_clip(work: Work) -> None:
    clip = work.clips(40, 41) / "1.mp4"
    truncate(clip, clip.with_name("cut.mp4"), 0.5)
    clip.with_name("cut.mp4").rename(clip)


def _signal(work: Work, body: str) -> None:
    file = work.code(f"def mine(frames):\n    {body}\n")
    work.change(conditioning={"kind": "channel_concat", "signal": f"{file}:mine"})


def _adapter(work: Work, body: str, head: str = "") -> None:
    text = f"from finetrainers.models.flux import Flux\n{head}\n\nclass Mine(Flux):\n    {body}\n"
    work.change(model={"adapter": f"{work.code(text)}:Mine"})


def _objective(work: Work) -> None:
    text = (
        "from finetrainers import OwnObjective\n\n\nclass Mine(OwnObjective):\n"
        "    def losses(self, predict, batch):\n        return batch.latents.mean()\n"
    )
    work.change(objective={"kind": f"{work.code(text)}:Mine"})


SHARDED = """def denoise(self, denoiser, x, sigma, prompt):
        bias = denoiser.transformer_blocks[0].attn.to_q.base_layer.weight.sum()
        return super().denoise(denoiser, x + 0 * bias, sigma, prompt)"""


def _start_from(work: Work, **tuning: Any) -> Path:
    run = work.finished()
    work.change(output_dir=str(work.root / "second"), tuning={"start_from": str(run / "weights" / "step-000002"), **tuning})
    return run / "weights" / "step-000002"


def _damage_checkpoints(work: Work) -> None:
    for manifest in (work.finished() / "checkpoints").glob("*/manifest.json"):
        manifest.unlink()


def _lock(work: Work) -> None:
    import fcntl

    run = work.finished()
    lock = work.stack.enter_context((run / ".lock").open("a"))
    fcntl.flock(lock, fcntl.LOCK_EX)


def _closed(work: Work, key: str) -> None:
    """A folder in which nothing may be written: root may everywhere, so that the system's answer is played."""
    import os

    closed = work.root / "closed"
    closed.mkdir()
    access = os.access

    def refuse(path: Any, mode: int, **options: Any) -> bool:
        return access(path, mode, **options) and not (Path(path) == closed and mode & os.W_OK)

    work.patch.setattr("finetrainers.files.storage.may", refuse)
    work.change(**({"output_dir": str(closed / "run")} if key == "output_dir" else {"cache": {"path": str(closed / "c")}}))


def _package(work: Work, name: str) -> None:
    import sys

    work.patch.setitem(sys.modules, name, None)


def _no_wandb(work: Work) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        work.patch.delenv(name, raising=False)
    work.patch.setenv("NETRC", str(work.root / "netrc"))
    work.change(track={"wandb": "crush"})


def _no_token(work: Work) -> None:
    work.patch.setattr("huggingface_hub.get_token", lambda: None)
    work.change(push_to_hub=True)


def _file(work: Work, name: str) -> Path:
    (work.root / name).write_text("x")
    return work.root / name


def _others(work: Work) -> None:
    (work.root / "run").mkdir()
    (work.root / "run" / "thesis.tex").write_text("x")


def _views(work: Work) -> None:
    """Two hundred thousand views where two hundred were meant."""
    data = [{**work.tree["data"][0], "resize": "random_crop", "views": 200_000}]
    work.change(data=data, train={"steps": 2_000})
    work.free = 10 * MB


def _checkpoints(work: Work) -> None:
    work.change(tuning={"kind": "full"}, train={"steps": 1000}, checkpoint={"every": 1, "keep": 900})
    work.free = 100 * MB


def _weights(work: Work) -> None:
    work.change(tuning={"kind": "full"}, train={"steps": 1000}, checkpoint={"every": 1, "keep_weights": None})
    work.free = 100 * MB


PLANTED: tuple[Planted, ...] = (
    # configuration
    Planted("a layer pattern for LoRA that matches nothing", "config", "planning",
            lambda w: w.change(tuning={"targets": ["to_query"]}), r"tuning\.targets"),
    Planted("a bucket that the model cannot take", "config", "planning",
            lambda w: w.change(data=[{**w.tree["data"][0], "buckets": [[1, 60, 64]]}]), r"data\.0\.buckets: \[1, 60, 64\]"),
    Planted("validation prompts that are not there", "config", "planning",
            lambda w: w.change(validation={"prompts": str(w.root / "none.json")}), r"validation\.prompts: there is no file .*none\.json"),
    Planted("a prompt of an impossible size", "config", "planning",
            lambda w: w.prompts({"prompt": "a", "height": 60}), r"prompt 1: .* impossible"),
    Planted("a prompt whose picture is cut off", "config", "planning",
            lambda w: (w.clips(), write_pictures(w.root / "p", 1), cut(w.root / "p" / "00.png"),
                       w.prompts({"prompt": "a", "image": str(w.root / "p" / "00.png")})),
            r"prompt 1: image: .* cannot be read as an image", before="validation"),
    Planted("a tracker whose package is missing", "config", "start",
            lambda w: (_package(w, "tensorboard"), w.change(track={"tensorboard": True})), r"track\.tensorboard: .*pip install"),
    Planted("an optimizer whose package is missing", "config", "start",
            lambda w: (_package(w, "prodigyopt"), w.change(optimizer={"name": "prodigy", "lr": 1.0})),
            r"optimizer\.name: prodigy needs the package"),
    Planted("Weights & Biases without a login", "config", "start", _no_wandb, r"track\.wandb: crush: nobody is logged in",
            trains=False),
    Planted("a push to the Hub without a token", "config", "start", _no_token, r"push_to_hub: there is no token", trains=False),
    Planted("a Hub repository of an impossible name", "config", "start",
            lambda w: w.change(push_to_hub=True, hub_repo="me/a/b"), r"hub_repo: 'me/a/b' cannot be", trains=False, before="end"),
    Planted("fewer steps than the run has taken", "config", "planning",
            lambda w: (w.finished(), w.change(train={"steps": 1})), r"train\.steps: 1 is less than the 2"),
    Planted("a run in output_dir that has other settings", "config", "start",
            lambda w: (w.finished(), w.change(tuning={"rank": 2})), r"output_dir: .* holds a run with other settings"),
    Planted("a checkpoint to resume from that is not there", "config", "planning",
            lambda w: (w.finished(), w.change(checkpoint={"resume": 1})), r"checkpoint\.resume: there is no whole checkpoint"),
    # data
    Planted("a data set that is not there", "data", "planning",
            lambda w: w.change(data=[{**w.tree["data"][0], "path": str(w.root / "nowhere")}]), r"data.*nowhere"),
    Planted("a picture that is cut off", "data", "planning", lambda w: cut(w.data / "03.png"), r"03\.png: cannot be decoded"),
    Planted("a clip that is cut off", "data", "planning", _cut_clip, r"data.*\n.*1\.mp4"),
    Planted("a file that is no picture", "data", "planning", lambda w: (w.data / "03.png").write_text("no"), r"03\.png"),
    Planted("a picture without a caption", "data", "planning", lambda w: (w.data / "03.txt").unlink(), r"03\.png.*caption"),
    Planted("a picture that would be enlarged too much", "data", "planning",
            lambda w: Image.new("RGB", (24, 24)).save(w.data / "03.png"), r"03\.png"),
    Planted("a clip that is shorter than its bucket", "data", "planning", lambda w: w.clips(9, 17), r"0\.mp4"),
    Planted("a table that names a file which is not there", "data", "planning",
            lambda w: w.metadata([{"file_name": "00.png", "text": "a"}, {"file_name": "09.png", "text": "b"}]), r"09\.png"),
    Planted("a caption column by a wrong name", "data", "planning",
            lambda w: w.metadata([{"file_name": "00.png", "text": "a"}], caption_column="txt"), r"caption_column.*txt"),
    Planted("a control file that is missing", "data", "planning", _missing_control, r"03\.png"),
    Planted("a control file that is cut off", "data", "planning", _cut_control, r"control/03\.png: cannot be decoded"),
    Planted("held-out items that leave nothing to train on", "data", "planning",
            lambda w: ([(w.data / f"0{n}.{s}").unlink() for n in (1, 2, 3) for s in ("png", "txt")],
                       w.change(validation={"held_out": 0.5})), r"validation\.held_out"),
    Planted("validation data that are the training data", "data", "planning",
            lambda w: w.change(validation={"data": w.tree["data"]}), r"data"),
    Planted("a control signal of one's own that fails", "data", "encoding",
            lambda w: _signal(w, "return frames[frames.shape[0]]"), r"conditioning\.signal", is_long=True, twin=True),
    # model
    Planted("weights of the denoiser that are missing", "model", "planning",
            lambda w: (w.own_model() / "transformer" / "diffusion_pytorch_model.safetensors").unlink(), r"diffusion_pytorch_model", before="loading"),
    Planted("weights of the denoiser that are half downloaded", "model", "planning",
            lambda w: cut(w.own_model() / "transformer" / "diffusion_pytorch_model.safetensors"), r"damaged or not whole", before="loading"),
    Planted("weights with fewer layers than the config says", "model", "planning", _drop_layer, r"tensors .* are missing", before="loading"),
    Planted("weights of another shape", "model", "planning", _reshape, r"x_embedder\.weight has shape", before="loading"),
    Planted("a text encoder without weights", "model", "planning",
            lambda w: (w.own_model() / "text_encoder_2" / "model.safetensors").unlink(), r"text_encoder_2: .* has no weights", before="encoding"),
    Planted("a VAE that is half downloaded", "model", "planning",
            lambda w: cut(w.own_model() / "vae" / "diffusion_pytorch_model.safetensors"), r"vae/.*damaged or not whole", before="encoding"),
    Planted("a tokenizer without its vocabulary", "model", "planning",
            lambda w: (w.own_model() / "tokenizer_2" / "tokenizer.json").unlink(), r"tokenizer_2: .* has no vocabulary", before="end"),
    Planted("a tokenizer that is half downloaded", "model", "encoding",
            lambda w: cut(w.own_model() / "tokenizer_2" / "tokenizer.json"), r"tokenizer_2", twin=True),
    Planted("a class that this version of diffusers does not have", "model", "planning", _edit_index,
            r"FluxTransformer9DModel of model_index\.json cannot be imported"),
    Planted("a text encoder of another width than the denoiser takes", "model", "first step", _other_encoder,
            r"shapes cannot be multiplied", is_long=True, twin=True),
    Planted("weights to begin from of another rank", "model", "planning", lambda w: _start_from(w, rank=2),
            r"tuning\.start_from: .* does not fit", before="loading"),
    Planted("weights to begin from that are damaged", "model", "planning",
            lambda w: cut(adapter_file(_start_from(w))), r"tuning\.start_from: .* cannot be read", before="loading"),
    Planted("an adapter of one's own with a bug in its forward pass", "model", "first step",
            lambda w: _adapter(w, "def denoise(self, denoiser, x, sigma, prompt):\n        return self.velocity(x)"),
            r"model\.adapter: Mine fails .*velocity.*mine\.py.*, line 6, in denoise", twin=True),
    Planted("an objective of one's own that returns one number", "model", "first step", _objective,
            r"objective\.kind|losses", is_long=True, twin=True),
    # disk and permissions
    Planted("a cache that the disk has no room for", "disk", "encoding", _views, r"cache\.path: the run writes", trains=False),
    Planted("checkpoints that the disk has no room for", "disk", "saving", _checkpoints, r"output_dir: the run writes .*checkpoints",
            trains=False),
    Planted("exported weights that the disk has no room for", "disk", "saving", _weights, r"output_dir: the run writes .*weights of",
            trains=False),
    Planted("an output_dir inside of a file", "disk", "start",
            lambda w: w.change(output_dir=str(_file(w, "f") / "run")), r"output_dir: .*/f"),
    Planted("an output_dir with somebody's files", "disk", "start", _others, r"output_dir: .* that no run made"),
    Planted("an output_dir that another run holds", "disk", "start", _lock, r"output_dir: .* in use by another process"),
    Planted("a cache that is a file", "disk", "planning", lambda w: w.change(cache={"path": str(_file(w, "f"))}), r"cache\.path: .*/f"),
    Planted("checkpoints that are all damaged", "disk", "planning", _damage_checkpoints, r"all checkpoints are damaged"),
    Planted("an output_dir that may not be written", "permissions", "start", lambda w: _closed(w, "output_dir"),
            r"output_dir: .*closed: may not be written", trains=False),
    Planted("a cache that may not be written", "permissions", "planning", lambda w: _closed(w, "cache"),
            r"cache\.path: .*closed: may not be written", trains=False),
    # many processes
    Planted("a batch that does not spread over the devices", "processes", "start",
            lambda w: w.change(parallel={"replicate": 3}), r"train\.batch_size: 4 is not a multiple of", trains=False),
    Planted("sizes of axes that do not make the number of devices", "processes", "start",
            lambda w: (w.change(parallel={"shard": 2, "replicate": 3}), setattr(w, "processes", 4)), r"cannot be with 4 processes",
            trains=False),
    Planted("more devices of a sample than attention heads", "processes", "planning",
            lambda w: w.change(parallel={"context": 4}), r"parallel\.context: 4 processes cannot share the 2 attention heads",
            trains=False),
    Planted("tokens that devices cannot share evenly", "processes", "planning",
            lambda w: w.change(data=[{**w.tree["data"][0], "buckets": [[1, 48, 48]]}], parallel={"context": 2}),
            r"cannot share the 9 tokens", trains=False),
    Planted("an optimizer that cannot step parts of weights", "processes", "start",
            lambda w: w.change(optimizer={"name": "prodigy"}, train={"micro_batch_size": 2}, parallel={"shard": 2}),
            r"optimizer\.name: prodigy is impossible with parallel\.shard", trains=False),
    Planted("text encoders spread over one device", "processes", "planning",
            lambda w: w.change(memory={"shard_text_encoders": True}), r"memory\.shard_text_encoders: true has no effect"),
    Planted("an adapter of one's own that reads weights which are sharded", "processes", "first step",
            lambda w: (_adapter(w, SHARDED), w.change(train={"micro_batch_size": 2}, parallel={"shard": 2})), r"model\.adapter: .*mine\.py", trains=False,
            is_long=True, twin=True),
)  # fmt: skip


@contextmanager
def planted(error: Planted, work: Work) -> Iterator[Work]:
    """Plant an error, and take back what of it is not in the work's folder."""
    with work.stack:
        error.plant(work)
        yield work
