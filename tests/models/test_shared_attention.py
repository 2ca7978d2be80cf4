from __future__ import annotations

import math

import pytest
import torch

from genrec.models.backbones.shared_attention import shared_attention

USERS, WIDTH, SIZE, LENGTH = 2, 5, 4, 7


def slow(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """One query `[w]` over its own copy of keys and values `[n, w]`."""
    scores = torch.stack(
        [scale * sum(query * key) + add for key, add in zip(keys, bias, strict=True)]
    )
    shares = (scores - scores.max()).exp()
    return sum(share / shares.sum() * value for share, value in zip(shares, values, strict=True))


@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (4, 2), (3, 1)])
@pytest.mark.parametrize("own", [0, 3])
@pytest.mark.parametrize("extras", [False, True])
def test_equals_attention_of_every_beam_alone(
    heads: int, groups: int, own: int, extras: bool
) -> None:
    torch.manual_seed(heads + own)
    query = torch.randn(USERS, heads, WIDTH, SIZE)
    key, value = torch.randn(2, USERS, groups, LENGTH, SIZE)
    own_key, own_value = torch.randn(2, USERS, WIDTH, own, groups, SIZE)
    allowed = torch.rand(USERS, 1, WIDTH, LENGTH) < 0.7
    allowed[..., 0] = True
    bias = torch.randn(heads, WIDTH, LENGTH)
    own_bias = torch.randn(heads, WIDTH, own)
    options = {"allowed": allowed, "bias": bias, "scale": 0.3} if extras else {}
    if own:
        options |= {"own_key": own_key, "own_value": own_value}
        options |= {"own_bias": own_bias} if extras else {}
    mixed = shared_attention(query, key, value, **options)
    for user in range(USERS):
        for head in range(heads):
            group = head * groups // heads
            for beam in range(WIDTH):
                seen = allowed[user, 0, beam] if extras else torch.ones(LENGTH, dtype=torch.bool)
                add = bias[head, beam, seen] if extras else torch.zeros(int(seen.sum()))
                more = own_bias[head, beam] if extras else torch.zeros(own)
                expected = slow(
                    query[user, head, beam],
                    torch.cat([key[user, group, seen], own_key[user, beam, :, group]]),
                    torch.cat([value[user, group, seen], own_value[user, beam, :, group]]),
                    torch.cat([add, more]),
                    0.3 if extras else 1 / math.sqrt(SIZE),
                )
                torch.testing.assert_close(mixed[user, head, beam], expected, atol=1e-5, rtol=1e-5)


def test_the_context_is_not_copied_for_each_beam() -> None:
    """Nothing as large as the beams' copies of the keys is ever made."""
    users, width, length, size = 2, 64, 512, 16
    query = torch.randn(users, 1, width, size)
    key, value = torch.randn(2, users, 1, length, size)
    copies = users * width * length * size
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.untyped_storage().nbytes() // out.element_size())
            return out

    with Watch():
        shared_attention(query, key, value)
    assert 0 < largest <= copies // size
