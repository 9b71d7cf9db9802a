"""Batches are cut, moved and stacked without losing anything of a sample."""

import torch

from finetrainers.batch import Batch, Posterior, Prompt, sample_generator, stack_text


def make_batch(count: int) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=generator)

    prompt = Prompt({"tokens": draw(5, 3), "pooled": draw(3)}, fps=draw().abs(), image={"first": draw(4, 1, 2, 2)})
    return Batch(torch.arange(count), draw(4, 3, 2, 2), draw(4, 3, 2, 2), draw(3), draw(3), prompt)


def values(batch: Batch) -> dict[str, torch.Tensor]:
    parts = {name: getattr(batch, name) for name in ("positions", "latents", "noise", "sigma", "loss_mask")}
    return parts | {"fps": batch.prompt.fps, **batch.prompt.text, **batch.prompt.image}


def test_micro_batches_are_the_batch_in_order() -> None:
    batch = make_batch(5)
    micros = [values(micro) for micro in batch.split(2)]
    assert [len(micro["positions"]) for micro in micros] == [2, 2, 1]
    for name, whole in values(batch).items():
        assert torch.equal(torch.cat([micro[name] for micro in micros]), whole), name
    assert batch.split(5) == [batch]


def test_a_batch_moves_with_all_that_it_holds() -> None:
    batch = make_batch(2)
    moved = batch.to(torch.device("meta"))
    devices = {name: tensor.device.type for name, tensor in values(moved).items()}
    assert devices.pop("positions") == "cpu"
    assert set(devices.values()) == {"meta"}
    assert {name: tensor.shape for name, tensor in values(moved).items()} == {n: t.shape for n, t in values(batch).items()}


def test_texts_of_unequal_length_are_padded_with_zeros_at_the_end() -> None:
    long, short = torch.ones(4, 2), 2 * torch.ones(3, 2)
    stacked = stack_text([{"tokens": long, "count": torch.tensor(4)}, {"tokens": short, "count": torch.tensor(3)}])
    assert stacked["count"].tolist() == [4, 3]
    assert torch.equal(stacked["tokens"][0], long)
    assert torch.equal(stacked["tokens"][1], torch.cat([short, torch.zeros(1, 2)]))


def test_a_posterior_is_sampled_for_each_position() -> None:
    mean, std = torch.full((4, 16, 16, 16), 3.0), torch.full((4, 16, 16, 16), 0.5)
    first, again, other = (Posterior(mean, std).draw(sample_generator(0, n, "posterior")) for n in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    z = (first - mean) / std
    assert abs(float(z.mean())) < 0.05
    assert abs(float(z.std()) - 1) < 0.05
    assert torch.equal(Posterior(mean, None).draw(sample_generator(0, 1, "posterior")), mean)
