from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.quantization.residual_vq import ResidualVQ, rotate_to
from genrec.quantization.sinkhorn import sinkhorn_codes


def layer(decay, sizes=(6, 4), width=3, seed=0, **options) -> ResidualVQ:
    generator = torch.Generator().manual_seed(seed)
    vq = ResidualVQ(sizes, width, decay=decay, **options)
    for level, size in enumerate(sizes):
        book = torch.randn(size, width, generator=generator) / (level + 1)
        vq.set_codebook(level, book, torch.full((size,), 5))
    return vq


def batch(n=40, width=3, seed=1) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def slow(vq: ResidualVQ, z: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    total, codes = torch.zeros_like(z), []
    for level in range(2):
        book = vq.codebook(level).detach()
        codes.append(((z - total)[:, None] - book[None]).square().sum(dim=2).argmin(dim=1))
        total = total + book[codes[-1]]
    return total, codes


@pytest.mark.parametrize("decay", [None, 0.9])
def test_the_output_is_the_sum_of_the_nearest_codes(decay):
    vq, z = layer(decay).eval(), batch()
    expected, _ = slow(vq, z)
    torch.testing.assert_close(vq(z, 0.25)[0], expected)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_the_gradient_passes_straight_through(decay):
    vq, z = layer(decay), batch().requires_grad_()
    weights = batch(seed=2)
    (vq(z, 0.0)[0] * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights)


def test_losses_by_hand():
    z = batch()
    vq = layer(None)
    first, second = vq.codebook(0).detach(), vq.codebook(1).detach()
    _, codes = slow(vq, z)
    rest = z - first[codes[0]]
    last = rest - second[codes[1]]
    expected = 1.25 * (rest.square().mean() + last.square().mean())
    torch.testing.assert_close(vq(z, 0.25)[1].detach(), expected)
    torch.testing.assert_close(layer(0.9)(z, 0.25)[1], expected / 5)


def test_moving_averages_equal_a_loop_over_codes():
    vq, z = layer(0.9, sizes=(6,)), batch()
    before = vq.codebook(0).detach().clone()
    codes = (z[:, None] - before[None]).square().sum(dim=2).argmin(dim=1)
    vq(z, 0.25)
    for code in range(6):
        rows = z[codes == code]
        count = 0.9 * 1.0 + 0.1 * len(rows)
        total = 0.9 * before[code] + 0.1 * rows.sum(dim=0)
        torch.testing.assert_close(vq.codebook(0)[code], total / count)


def test_codebooks_move_towards_the_vectors():
    for decay in (None, 0.5):
        vq, z = layer(decay), batch(400)
        optimizer = torch.optim.SGD([*vq.parameters(), torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        first = float((vq(z, 0.25)[0] - z).square().mean())
        for _ in range(50):
            optimizer.zero_grad()
            loss = vq(z, 0.0)[1]
            if decay is None:
                loss.backward()
                optimizer.step()
        assert float((vq(z, 0.25)[0] - z).square().mean()) < 0.8 * first


def test_unused_codes_move_onto_residuals_of_the_last_batch():
    vq = layer(None, sizes=(6,))
    vq.codebooks[0].data[4:] = 1e3
    optimizer = torch.optim.AdamW(vq.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    z = batch()
    vq(z, 0.25)[1].backward()
    optimizer.step()
    assert vq.revive(rng, optimizer) >= 2
    for code in (4, 5):
        assert (vq.codebook(0)[code] == z).all(dim=1).any()
        assert (optimizer.state[vq.codebooks[0]]["exp_avg"][code] == 0).all()
    assert not vq.used[0].any()


def test_codes_in_use_stay():
    vq, z = layer(0.9), batch(500)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    vq(z, 0.25)
    used = [u.clone() for u in vq.used]
    before = [vq.codebook(level).clone() for level in range(2)]
    vq.revive(np.random.default_rng(0), optimizer)
    for level in range(2):
        assert torch.equal(vq.codebook(level)[used[level]], before[level][used[level]])


def test_the_rotation_takes_z_to_its_codes_and_turns_the_gradient():
    vq, z = layer(0.9, rotate=True), batch().requires_grad_()
    expected, _ = slow(vq, z.detach())
    weights = batch(seed=2)
    out = vq(z, 0.0)[0]
    torch.testing.assert_close(out.detach(), expected)
    (out * weights).sum().backward()
    for row in range(40):
        start, end = z[row].detach(), expected[row]
        length, reach = start.norm(), end.norm()
        # The rotation in the plane of both, from its definition by an orthonormal basis.
        e = start / length
        f = end / reach - (end / reach @ e) * e
        f = f / f.norm()
        cos, sin = end / reach @ e, end / reach @ f
        turn = torch.eye(3) + sin * (torch.outer(f, e) - torch.outer(e, f))
        turn = turn + (cos - 1) * (torch.outer(e, e) + torch.outer(f, f))
        torch.testing.assert_close(turn @ e, end / reach, atol=1e-5, rtol=1e-4)
        slow_grad = reach / length * turn.T @ weights[row]
        torch.testing.assert_close(z.grad[row], slow_grad, atol=1e-4, rtol=1e-3)


def test_where_no_rotation_is_the_shortest_the_gradient_passes_straight_through():
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    target = torch.tensor([[1.0, 1.0], [0.0, 0.0], [-2.0, 0.0]])
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    out = rotate_to(z, target)
    torch.testing.assert_close(out.detach(), target)
    (out * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights)


def test_sinkhorn_assigns_the_last_level_while_training():
    vq, z = layer(0.9, sinkhorn=0.05), batch(80)
    first = vq.codebook(0).clone()
    second = vq.codebook(1).clone()
    vq(z, 0.25)
    near = (z[:, None] - first[None]).square().sum(dim=2).argmin(dim=1)
    assert torch.equal(vq.codes[0], near)
    distances = (z - first[near])[:, None] - second[None]
    assert torch.equal(vq.codes[1], sinkhorn_codes(distances.square().sum(dim=2), 0.05, 50))
    still = layer(0.9, sinkhorn=0.05).eval()
    torch.testing.assert_close(still(z, 0.25)[0], slow(still, z)[0])


def test_revival_needs_no_optimizer():
    vq = layer(0.9, sizes=(6,))
    vq.codebooks[0].data[4:] = 1e3
    vq(batch(), 0.25)
    assert vq.revive(np.random.default_rng(0)) >= 2
