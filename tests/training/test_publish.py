"""What a run leaves for others: the model card, the report, and the push, against a Hub of our own at the HTTP boundary."""

import ast
import base64
import json
import math
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from finetrainers.config import Config, parse_config
from finetrainers.events.parts import BadItem
from finetrainers.events.record import own_fields
from finetrainers.events.report import RunReport
from finetrainers.files.whole import MANIFEST, whole_directory
from finetrainers.models import open_model
from finetrainers.runs.outputs import Sample
from finetrainers.training.cards.card import Card, remove_card, write_card
from finetrainers.training.cards.cards import Cards
from finetrainers.training.report import read_events, write_report
from finetrainers.tuning import build_tuning
from finetrainers.tuning.base import ExportFacts

USER = "ada"
TOKEN = "hf_of_a_test"
FACTS: dict[str, Any] = {"step": 40, "num_samples": 12, "held_out_losses": {0: 0.75, 40: 0.5}}


# -- the model card ---------------------------------------------------------------------------------------------------


def card_of(
    model_path: Path | str, directory: Path, *, pipeline_of: Path, repo: str | None = None, **facts: Any
) -> ModelCard:
    """Write a card for a run of ``model_path``, whose pipeline is read from a folder that exists."""
    tree = {
        "output_dir": str(directory / "runs" / "crush"),
        "model": {"path": str(model_path)},
        "data": [{"path": "d", "buckets": [[1, 64, 64]]}],
        "train": {"batch_size": 8},
        "tuning": {"rank": 64, "alpha": 64.0},  # as a run has settled them
        "optimizer": {"lr": 1e-4},
        **facts.pop("tree", {}),
    }
    model = open_model(parse_config({**tree, "model": {"path": str(pipeline_of)}}).model)
    config = parse_config(tree)
    exported = {
        name: ExportFacts(name, model.pipeline_class, model.dtype, drawing_class=model.pipeline_class)
        for name in model.denoisers.trained
    }
    tuning = build_tuning(config.tuning)
    told = Card(config=config, model=model, tuning=tuning, exported=exported, **{**FACTS, **facts}, repo=repo)
    write_card(directory, told)
    return ModelCard.load(directory / "README.md")


def sample_of(folder: Path, number: int, prompt: str, **settings: Any) -> Sample:
    """A picture that a validation drew."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{number:02d}.png"
    file.write_bytes(b"picture")
    return Sample(40, number, prompt, file, {"size": [1, 64, 96], "steps": 20, "seed": 3, **settings})


def test_the_front_matter_is_what_the_hub_reads(tiny_flux: Path, tmp_path: Path) -> None:
    sample = sample_of(tmp_path / "drawn", 0, "ohwx | a cat")
    data = [{"path": "d", "buckets": [[1, 64, 64]], "caption_prefix": "ohwx"}]
    card = card_of("user/base", tmp_path, pipeline_of=tiny_flux, samples=[sample], tree={"data": data})
    assert card.data.to_dict() == {
        "base_model": "user/base",
        "base_model_relation": "adapter",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "instance_prompt": "ohwx",
        "widget": [{"text": "ohwx | a cat", "output": {"url": "samples/00.png"}}],
        "tags": ["diffusers-training", "finetrainers", "flux", "lora"],
    }
    assert (tmp_path / "README.md").read_text().startswith("---\n")


def test_the_text_says_what_was_done_and_how_well(tiny_flux: Path, tmp_path: Path) -> None:
    data = [{"path": "/home/ada/d", "buckets": [[1, 64, 64]], "caption_prefix": "ohwx"}]
    text = card_of("user/base", tmp_path, pipeline_of=tiny_flux, tree={"data": data}).text
    for part in (
        "# crush\n",
        "LoRA of [user/base](https://huggingface.co/user/base) for text-to-image",
        "**Trigger word:** `ohwx`, at the beginning of the prompt.\n",
        "| Method | LoRA, rank 64, alpha 64 |\n",
        "| Steps | 40 |\n| Batch size | 8 |\n",
        "| Size | 64x64 |\n| Data | 12 samples |\n",
        "| Held-out loss | 0.50000 at step 40, 0.75000 at step 0 |\n",
        f'pipeline.load_lora_weights("{tmp_path}", weight_name="pytorch_lora_weights.safetensors")',
        'prompt="ohwx TEXT",',
    ):
        assert part in text
    assert "/home/ada" not in text


def test_the_repository_gives_its_name_to_the_card(tiny_flux: Path, tmp_path: Path) -> None:
    named = {"hub_repo": "ada/ohwx", "push_to_hub": True}
    assert "# ada/ohwx\n" in card_of("b", tmp_path, pipeline_of=tiny_flux, tree=named).text


def test_a_card_shows_its_samples_and_draws_the_first(tiny_flux: Path, tmp_path: Path) -> None:
    """With the settings that it was drawn with; the pictures lie beside the card, whatever their prompts hold."""
    prompts = ['a "cat"\non `two` lines', ""]
    samples = [sample_of(tmp_path / "drawn", number, prompt, guidance=2.5) for number, prompt in enumerate(prompts)]
    text = card_of("user/base", tmp_path, pipeline_of=tiny_flux, samples=samples).text
    places = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert places == ["samples/00.png", "samples/01.png"]
    assert [(tmp_path / place).read_bytes() for place in places] == [b"picture"] * 2
    assert '`` a "cat" on `two` lines `` (96x64, 20 steps, guidance 2.5, seed 3)' in text
    (call,) = (node for node in ast.walk(ast.parse(lines_of(text))) if is_call_of(node, "pipeline"))
    told = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert told == {
        "prompt": repr(prompts[0]), "height": "64", "width": "96", "num_inference_steps": "20", "guidance_scale": "2.5",
        "generator": "torch.Generator().manual_seed(3)",
    }  # fmt: skip


def lines_of(card: str) -> str:
    return card.split("```python\n")[1].split("```", maxsplit=1)[0]


def is_call_of(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


@pytest.mark.parametrize("link", ["LICENSE.md", "https://example.org/licence"])
def test_the_licence_of_the_base_is_that_of_its_card(
    tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    """As the Hub's cache has it; nothing is asked for where the weights stay here."""
    readme = tmp_path / "base.md"
    readme.write_text(f"---\nlicense: other\nlicense_name: narrow\nlicense_link: {link}\n---\n")
    asked = []

    def cached(base: str, file: str, **options: Any) -> str:
        asked.append((base, file, options["local_files_only"]))
        return str(readme)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", cached)
    told = card_of("user/base", tmp_path, pipeline_of=tiny_flux).data.to_dict()
    place = link if "://" in link else f"https://huggingface.co/user/base/blob/main/{link}"
    assert (told["license"], told["license_name"], told["license_link"]) == ("other", "narrow", place)
    card_of("user/base", tmp_path, pipeline_of=tiny_flux, repo="ada/crush")
    assert asked == [("user/base", "README.md", True), ("user/base", "README.md", False)]


def test_the_card_of_a_base_that_cannot_be_read_has_no_licence(tiny_flux: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: [mit\nname: : {\n---\n")
    assert "license" not in card_of(base, tmp_path, pipeline_of=tiny_flux).data.to_dict()


def test_lines_of_a_card_are_python_whatever_folders_are_called(tiny_flux: Path, tmp_path: Path) -> None:
    place = tmp_path / 'my "best" run\\1'
    place.mkdir()
    card_of("user/base", place, pipeline_of=tiny_flux, samples=[sample_of(tmp_path / "drawn", 0, "```\na ``` cat")])
    text = (place / "README.md").read_text()
    lines = re.search(r"```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert lines is not None
    (call,) = (
        node for node in ast.walk(ast.parse(lines[1])) if isinstance(node, ast.Call) and "load_lora" in ast.unparse(node)
    )
    assert ast.literal_eval(call.args[0]) == str(place)


def test_what_a_user_has_made_of_a_card_stays(tiny_flux: Path, tmp_path: Path) -> None:
    """A card that was not edited is written anew and removed, and samples with it."""
    weights, drawn = tmp_path / "weights", tmp_path / "drawn"
    (weights / "samples").mkdir(parents=True)
    samples = [sample_of(drawn, number, "a cat") for number in (0, 1)]
    (weights / "samples" / ".00.png.tmp").touch()  # a kill left it
    card_of("user/base", weights, pipeline_of=tiny_flux, samples=samples)
    samples[0].file.unlink()
    samples[0].file.write_bytes(b"another")  # of the same size
    for seed in (3, 4):
        card_of("user/base", weights, pipeline_of=tiny_flux, samples=samples[:1], tree={"seed": seed})
    card = weights / "README.md"
    assert "| Seed | 4 |" in card.read_text()
    assert [(file.name, file.read_bytes()) for file in (weights / "samples").iterdir()] == [("00.png", b"another")]
    edited = card.read_text().replace("# crush", "# mine")
    card.write_text(edited)
    card_of("user/base", weights, pipeline_of=tiny_flux)
    remove_card(weights)
    assert card.read_text() == edited
    card.unlink()
    card_of("user/base", weights, pipeline_of=tiny_flux)
    remove_card(weights)
    assert not card.exists()
    (weights / "samples").rmdir()
    (weights / "samples").symlink_to(drawn)
    card_of("user/base", weights, pipeline_of=tiny_flux)
    remove_card(weights)
    assert len(list(drawn.iterdir())) == 2


def test_weights_do_not_depend_on_their_card(tiny_flux: Path, tmp_path: Path) -> None:
    """What a validation tells may be odd; that is said once, and weights that are gone have no card."""
    tree = {
        "output_dir": str(tmp_path),
        "tuning": {"rank": 4, "alpha": 4.0},
        "optimizer": {"lr": 1e-4},
        "model": {"path": str(tiny_flux)},
        "data": [{"path": "d", "buckets": [[1, 64, 64]]}],
    }
    config = parse_config(tree)
    model = open_model(config.model)
    exported = {"transformer": ExportFacts("transformer", model.pipeline_class, model.dtype, drawing_class="FluxPipeline")}
    cards = Cards(config, model, build_tuning(config.tuning), 12)
    weights, drawn = tmp_path / "weights/step-000040", tmp_path / "validation/step-000040"
    for folder in (weights, drawn):
        folder.mkdir(parents=True)
    (weights / MANIFEST).write_text("{}")
    (drawn / "00.png").touch()
    (drawn / "validation.json").write_text('{"prompts": [{"prompt": "a"}], "samples": ["00.png"]}')
    cards.write(40, exported)
    assert not (weights / "README.md").exists()
    told: list[str] = []
    for _ in range(2):
        cards.tell(told.append)
    (drawn / "validation.json").unlink()
    cards.write(40, exported)
    assert (weights / "README.md").is_file()
    assert [said.partition(" (")[0] for said in told] == [f"{weights}: the card cannot be written"]
    assert "(KeyError: " in told[0]


def test_a_card_without_samples_and_held_out_loss_has_no_empty_parts(tiny_flux: Path, tmp_path: Path) -> None:
    text = card_of("user/base", tmp_path, pipeline_of=tiny_flux, held_out_losses={}).text
    assert "Samples" not in text
    assert "Held-out" not in text
    assert "Trigger" not in text


def test_a_loss_that_is_not_a_number_is_no_error(tiny_flux: Path, tmp_path: Path) -> None:
    text = card_of("user/base", tmp_path, pipeline_of=tiny_flux, held_out_losses={0: math.nan}).text
    assert "| Held-out loss | nan at step 0 |\n" in text


def test_the_card_names_the_repository_that_is_pushed_to(tiny_ltx: Path, tmp_path: Path) -> None:
    text = card_of("user/base", tmp_path, pipeline_of=tiny_ltx, repo="ada/crush", tree={"tuning": {"kind": "full"}}).text
    assert 'AutoModel.from_pretrained("ada/crush", subfolder="transformer"' in text
    assert "Full-rank fine-tune of [user/base]" in text
    assert str(tmp_path) not in text


def test_a_pushed_card_tells_nobody_the_folders_of_this_disk(tiny_flux: Path, tmp_path: Path) -> None:
    card = card_of(tiny_flux, tmp_path, pipeline_of=tiny_flux, repo="ada/crush")
    assert "base_model" not in card.data.to_dict()
    assert "LoRA of flux for" in card.text
    assert str(tiny_flux.parent) not in card.content
    assert str(tmp_path) not in card.content


def test_the_snippet_of_a_local_run_works_where_it_is(tiny_flux: Path, tmp_path: Path) -> None:
    assert f'from_pretrained("{tiny_flux}", dtype=' in card_of(tiny_flux, tmp_path, pipeline_of=tiny_flux).text


@pytest.mark.parametrize("kind", ["lora", "lokr", "full"])
def test_the_snippet_is_python(tiny_flux: Path, tmp_path: Path, kind: str) -> None:
    own = {"rank": 4, "alpha": 4.0} if kind == "lora" else {}
    text = card_of("user/base", tmp_path, pipeline_of=tiny_flux, tree={"tuning": {"kind": kind, **own}}).text
    compile(lines_of(text), "snippet", "exec")


# -- the report -------------------------------------------------------------------------------------------------------


def test_the_report_is_json_with_any_file_name(tmp_path: Path) -> None:
    nothing: dict[str, Any] = dict.fromkeys((own.name for own in own_fields(RunReport)), None)
    bad = BadItem(path=os.fsdecode(b"caf\xe9.mp4"), reason="ä")
    empty = {"mix": (), "held_out_losses": (), "stage_seconds": {}}
    report = RunReport(**{**nothing, **empty, "version": 1, "bad_samples": [bad]})
    file = write_report(tmp_path, report)
    assert file == tmp_path / "report.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written == report.tree()
    assert written["bad_samples"] == [{"path": bad.path, "reason": "ä"}]


def test_events_are_read_up_to_what_a_kill_cut_off(tmp_path: Path) -> None:
    line = json.dumps({"event": "warning", "message": "a\u2028b\x85c"}, ensure_ascii=False)
    (tmp_path / "events.jsonl").write_bytes(f'{line}\n{line}\n{{"event": "st'.encode())
    assert read_events(tmp_path) == [json.loads(line)] * 2


# -- the push ---------------------------------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """As much of the Hub as a push of small files needs, and what arrived."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.repos: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.unknown: list[str] = []
        self.refuses_commits = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubRequest(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/whoami-v2":
            return self._answer(200, {"type": "user", "name": USER, "auth": {"type": "access_token"}, "orgs": []})
        if self.path.startswith("/api/models/"):
            return self._answer(200, {"id": self.path.split("/revision")[0], "sha": "0" * 40, "siblings": []})
        self.server.unknown.append(f"GET {self.path}")
        return self._answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/api/repos/create":
            self.server.repos.append(json.loads(body))
            return self._answer(200, {"url": f"{self.server.address}/x/y", "id": "x/y"})
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for name in names]
            return self._answer(200, {"files": files})
        if "/commit/" in self.path and not self.server.refuses_commits:
            return self._commit(body)
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"warnings": [], "errors": []})
        if not self.server.refuses_commits:
            self.server.unknown.append(f"POST {self.path}")
        return self._answer(403, {"error": "You have no right to write"})

    def _commit(self, body: bytes) -> None:
        for line in body.splitlines():
            part = json.loads(line)
            if part["key"] == "header":
                self.server.messages.append(part["value"]["summary"])
            elif part["key"] == "file":
                assert part["value"]["encoding"] == "base64"
                self.server.files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
        commit = f"{self.server.address}/x/y/commit/{'1' * 40}"
        self._answer(200, {"success": True, "commitOid": "1" * 40, "commitUrl": commit, "pullRequestUrl": None})

    def _answer(self, status: int, tree: object) -> None:
        body = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


# huggingface_hub reads its environment when it is imported: a process of its own.
PUSH = """
    import json, sys
    from pathlib import Path
    from finetrainers.config import parse_config
    from finetrainers.errors import FinetrainersError
    from finetrainers.training.hub import check_hub, push
    work = json.loads(sys.argv[1])
    try:
        repo = check_hub(parse_config(work["config"]))
        print(repo)
        if work["weights"]:
            print(push(repo, Path(work["weights"]), private=work["private"]))
    except FinetrainersError as error:
        print(type(error).__name__, error)
"""


def run_push(endpoint: str, *, token: str = TOKEN, weights: Path | None = None, **settings: Any) -> list[str]:
    """Lines that the program above prints."""
    private = settings.pop("hub_private", True)
    work = {
        "config": {
            "output_dir": "runs/crush", "model": {"path": "m"}, "data": [{"path": "d", "buckets": [[1, 64, 64]]}],
            "push_to_hub": True, **settings,
        },
        "weights": weights and str(weights), "private": private,
    }  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": token,
        "HF_HOME": "/nonexistent",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0", "NO_PROXY": "127.0.0.1"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PUSH), json.dumps(work)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Weights with their card, and samples, as a run leaves them."""
    with whole_directory(tmp_path / "weights" / "step-000040") as weights:
        (weights / "pytorch_lora_weights.safetensors").write_bytes(bytes(range(256)) * 40)
        (weights / "transformer").mkdir()
        (weights / "transformer" / "config.json").write_text("{}")
    (tmp_path / "weights" / "step-000040" / "README.md").write_text("---\nlibrary_name: diffusers\n---\n\n# crush\n")
    samples = tmp_path / "weights" / "step-000040" / "samples"
    samples.mkdir()
    (samples / "00.png").write_bytes(b"\x89PNG\xff")
    return tmp_path / "weights" / "step-000040"


def is_private(repo: dict[str, Any]) -> bool:
    """As huggingface_hub says it before version 2, and since."""
    return repo["private"] if "private" in repo else repo["visibility"] == "private"


def test_weights_card_and_samples_arrive_to_the_byte(hub: Hub, exported: Path) -> None:
    (exported / ".00.png.tmp").touch()  # a kill left it
    lines = run_push(hub.address, weights=exported)
    assert lines == ["ada/crush", f"{hub.address}/x/y/commit/{'1' * 40}"]
    assert hub.unknown == []
    expected = {}
    for name in ("README.md", "samples/00.png", "pytorch_lora_weights.safetensors", "transformer/config.json"):
        expected[name] = (exported / name).read_bytes()
    assert hub.files == expected
    assert (exported / MANIFEST).is_file()  # it vouches for this disk, and stays here
    assert hub.messages == ["Weights from finetrainers"]
    (repo,) = hub.repos
    assert (repo["name"], repo["organization"], is_private(repo)) == ("crush", "ada", True)


def test_the_repository_can_be_named_and_be_public(hub: Hub, exported: Path) -> None:
    assert run_push(hub.address, weights=exported, hub_repo="team/dog", hub_private=False)[0] == "team/dog"
    (repo,) = hub.repos
    assert (repo["name"], repo["organization"], is_private(repo)) == ("dog", "team", False)


@pytest.mark.parametrize("token", ["", "hf_wrong"], ids=["no token", "wrong token"])
def test_without_a_token_that_the_hub_knows_nothing_begins(hub: Hub, token: str) -> None:
    first, *rest = run_push(hub.address, token=token)
    assert first.startswith("ConfigError push_to_hub: ")
    assert "log in with `hf auth login`, or set push_to_hub=false" in "\n".join(rest)
    assert hub.repos == []


def test_a_hub_that_cannot_be_reached_is_no_internal_error() -> None:
    first, *rest = run_push("http://127.0.0.1:9")
    assert first.startswith("ConfigError push_to_hub: ")
    assert "push_to_hub=false" in "\n".join(rest)


def test_a_push_that_fails_says_where_the_weights_are(hub: Hub, exported: Path) -> None:
    hub.refuses_commits = True
    text = "\n".join(run_push(hub.address, weights=exported)[1:])
    assert text.startswith("ConfigError push_to_hub: ")
    assert f"push them with `hf upload ada/crush {exported}`" in text


def test_the_token_is_looked_for_before_anything_is_read(monkeypatch, tmp_path: Path) -> None:
    """Hence before training: neither the model nor the data of this configuration exist."""
    from finetrainers.errors import ConfigError
    from finetrainers.training import run as training

    def refuse(_: Config) -> str:
        raise ConfigError("push_to_hub: no token")

    monkeypatch.setattr(training, "check_hub", refuse)
    tree = {
        "output_dir": str(tmp_path / "run"), "model": {"path": str(tmp_path / "none")}, "train": {"device": "cpu"},
        "data": [{"path": str(tmp_path / "none"), "buckets": [[1, 64, 64]]}], "push_to_hub": True,
        "optimizer": {"lr": 1e-4}, "tuning": {"kind": "lora", "rank": 4, "alpha": 4},  # else the model is asked for them
    }  # fmt: skip
    with pytest.raises(ConfigError, match="^push_to_hub: no token$"):
        training.train(parse_config(tree))
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["push_to_hub"] is True
    (event,) = read_events(tmp_path / "run")
    assert (event["event"], event["kind"], event["message"]) == ("error", "ConfigError", "push_to_hub: no token")
