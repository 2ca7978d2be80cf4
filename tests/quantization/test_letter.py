from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.errors import ConfigError
from genrec.quantization import RQVAE
from genrec.quantization.letter import Letter, contrast, partners, spread
from genrec.quantization.residual_vq import ResidualVQ


def rows(n, d, seed=0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_contrast_equals_a_loop():
    mapped, target = rows(7, 4), rows(7, 4, seed=1)
    total = 0.0
    for i in range(7):
        similarity = [float(torch.cosine_similarity(mapped[i], h, dim=0)) / 0.1 for h in target]
        total -= similarity[i] - np.log(np.exp(similarity).sum())
    assert float(contrast(mapped, target)) == pytest.approx(total / 7, rel=1e-4)


def test_items_without_collaborative_vector_are_left_out():
    mapped, target = rows(7, 4), rows(7, 4, seed=1)
    target[[2, 5]] = 0
    known = [0, 1, 3, 4, 6]
    torch.testing.assert_close(contrast(mapped, target), contrast(mapped[known], target[known]))
    assert contrast(mapped, torch.zeros(7, 4)) == 0


def test_spread_equals_a_loop():
    book, codes = rows(6, 3), torch.tensor([0, 4, 4, 2])
    positive = torch.tensor([1, 5, 3, 2])  # the last one is alone in its cluster
    total = 0.0
    for own, other in ((0, 1), (4, 5), (4, 3)):
        inner = {k: float(book[own] @ book[k]) for k in range(6) if k != own}
        total -= inner[other] - np.log(np.exp(list(inner.values())).sum())
    assert float(spread(book, codes, positive)) == pytest.approx(total / 3, rel=1e-4)
    assert spread(book, codes, codes) == 0


def test_partners_are_all_the_others_of_the_cluster():
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    codes = torch.arange(6).repeat(200)
    found = partners(codes, labels, np.random.default_rng(0)).view(200, 6)
    expected = [{2, 5}, {4}, {0, 5}, {3}, {1}, {0, 2}]
    assert [set(column.tolist()) for column in found.T] == expected


def test_the_terms_are_weighted_and_the_gradient_reaches_latents_and_codebooks():
    vq = ResidualVQ((8, 8), 3, decay=None)
    for level in range(2):
        vq.set_codebook(level, rows(8, 3, seed=level), torch.full((8,), 3))
    z = rows(20, 3, seed=5).requires_grad_()
    quantized, _ = vq(z, 0.25)

    def term(alignment: float, diversity: float) -> torch.Tensor:
        torch.manual_seed(0)
        terms = Letter(
            latent=3,
            collaborative=rows(30, 4) if alignment else None,
            alignment=alignment,
            diversity=diversity,
            clusters=3,
            rng=np.random.default_rng(0),
        )
        return terms(torch.arange(20), quantized, vq)

    both, one, other = term(2.0, 3.0), term(1.0, 0.0), term(0.0, 1.0)
    torch.testing.assert_close(both, 2 * one + 3 * other)
    both.backward()
    assert z.grad.abs().sum() > 0
    assert all(book.grad.abs().sum() > 0 for book in vq.codebooks)


def collaborative_toy(n=600) -> tuple[np.ndarray, np.ndarray]:
    """Content with a loud group and a faint one; only the faint one says who buys what."""
    rng = np.random.default_rng(0)
    loud, faint = rng.integers(8, size=n), rng.integers(8, size=n)
    x = np.concatenate([3 * np.eye(8)[loud], np.eye(8)[faint]], axis=1)
    x = x + 0.2 * rng.normal(size=x.shape)
    side = np.eye(8)[faint] + 0.1 * rng.normal(size=(n, 8))
    return x.astype(np.float32), side.astype(np.float32)


def test_alignment_brings_codes_of_items_bought_together_nearer():
    x, side = collaborative_toy()
    options = {
        "hidden": (32,),
        "latent": 8,
        "steps": 300,
        "warmup_steps": 50,
        "batch_size": 128,
        "learning_rate": 5e-3,
    }
    explained = []
    for weight in (0.0, 1.0):
        given = {"collaborative": side} if weight else None
        quantizer = RQVAE((8,), alignment=weight, **options).fit(x, side_vectors=given)
        codes = quantizer.encode(x)[:, 0]
        means = np.stack([side[codes == code].mean(axis=0) for code in range(8)])
        missed = ((side - means[codes]) ** 2).sum()
        explained.append(1 - missed / ((side - side.mean(axis=0)) ** 2).sum())
    assert explained[1] > explained[0] + 0.15


def test_a_sample_takes_the_rows_of_both():
    x, side = collaborative_toy()
    quick = {"hidden": (8,), "latent": 4, "steps": 20, "warmup_steps": 5, "alignment": 0.1}
    quantizer = RQVAE((4,), max_samples=50, **quick)
    seen = []
    terms = quantizer._terms

    def spy(given, rows, rng):
        seen.append((given["collaborative"].take(rows), rows))
        return terms(given, rows, rng)

    quantizer._terms = spy
    quantizer.fit(x, side_vectors={"collaborative": side})
    taken, numbers = seen[0]
    assert len(numbers) == 50
    assert np.array_equal(taken.numpy(), side[numbers])


def test_missing_and_idle_collaborative_vectors_are_named():
    x, side = collaborative_toy()
    with pytest.raises(ConfigError, match="'collaborative' vectors, which are missing"):
        RQVAE((4,), alignment=0.1).fit(x)
    with pytest.raises(ConfigError, match="makes no use of 'collaborative' vectors"):
        RQVAE((4,)).fit(x, side_vectors={"collaborative": side})


@pytest.mark.parametrize("update", ["ema", "rotation"])
def test_diversity_needs_codebooks_that_learn_by_gradient(update):
    with pytest.raises(ConfigError, match=f"update is '{update}'; use update='ste'"):
        RQVAE((4,), diversity=1e-4, update=update)
