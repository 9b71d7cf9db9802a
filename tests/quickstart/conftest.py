"""One quick start of each kind, smaller than a user's, for all tests that look at what it leaves."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from finishing import Finished, finish
from loading import load_script


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    from finetrainers.quickstart.image import IMAGE

    sizes = {"num_train": 160, "num_rehearsal": 160, "num_held_out": 8, "num_prompts": 24}
    return finish(tmp_path_factory, replace(IMAGE, steps=75, **sizes))


@pytest.fixture(scope="session")
def finished_video(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    from finetrainers.quickstart.video.showcase import VIDEO

    sizes = {"num_train": 160, "num_rehearsal": 160, "num_held_out": 8, "num_prompts": 24}
    return finish(tmp_path_factory, replace(VIDEO, steps=150, **sizes))


@pytest.fixture(scope="session")
def random_video(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A quick start on a base that draws nothing, in few steps: random weights in the shapes of the training scripts."""
    import torch
    from diffusers import AutoencoderKLLTXVideo

    from finetrainers.quickstart.video.showcase import SHOWCASE, VIDEO

    prompt = {**SHOWCASE.fine_tune.prompt, "num_inference_steps": 4}
    small = {"draw": partial(SHOWCASE.draw, steps=4), "steps": 4}
    showcase = replace(SHOWCASE, **small, fine_tune=replace(SHOWCASE.fine_tune, batch_size=8, prompt=prompt))
    folder = tmp_path_factory.mktemp("random")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoencoderKLLTXVideo(**load_script("train_quickstart_video_autoencoder").MODEL).save_pretrained(folder / "vae")
        base = load_script("train_quickstart_video_base").write_start(folder / "base", folder / "vae")
    sizes = {"num_train": 6, "num_rehearsal": 4, "num_held_out": 4, "num_prompts": 4}
    return finish(
        tmp_path_factory, replace(VIDEO, showcase=showcase, base=base, output=Path("random-video"), steps=2, **sizes)
    )
