"""Time HSTU's blocked attention beside the plain form, forward and backward, in one run.

    python scripts/bench_attention.py --length 1000

The plain form holds every score `[B, H, S, S]` and lets autograd do the rest, as the published
code does. Both get the same biases and the same times, and both compute the time buckets. Rounds
alternate, the best of each counts, and the ratio is what to read. `--model` times a whole backbone
of two layers instead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from genrec.models import HSTU, SequenceMeta
from genrec.models.backbones import hstu
from genrec.models.backbones.pointwise import pointwise_attention
from genrec.models.backbones.relative import Pairs, lookup
from genrec.models.times import TIME_BUCKETS


def plain_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    normalizer: int,
    bias: torch.Tensor | None = None,
    table: torch.Tensor | None = None,
    buckets: torch.Tensor | None = None,
) -> torch.Tensor:
    """What `pointwise_attention` computes, all scores at once."""
    scores = query @ key.transpose(2, 3)
    if bias is not None:
        scores = scores + (bias if bias.dim() == 2 else bias[:, None])
    if table is not None and buckets is not None:
        by_time = table.index_select(0, buckets.flatten().int()).view(buckets.shape)
        scores = scores + by_time[:, None]
    causal = torch.ones(scores.shape[2:], dtype=scores.dtype).tril()
    return (F.silu(scores) / normalizer * causal) @ value


def best_of(repeats: int, *runs: Callable[[], None]) -> list[float]:
    """Seconds of the fastest of several rounds of each, taken in turns; one more warms up."""
    best = [float("inf")] * len(runs)
    for turn in range(repeats + 1):
        for place, run in enumerate(runs):
            started = time.perf_counter()
            run()
            if turn:
                best[place] = min(best[place], time.perf_counter() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", action="store_true")
    given = parser.parse_args()

    torch.manual_seed(0)
    batch, length, size = given.batch, given.length, given.width // given.heads
    gaps = torch.randint(1, 200_000, (batch, length))
    event = 1_300_000_000 + gaps.cumsum(1)
    after = torch.cat([event[:, 1:], event[:, -1:]], 1)
    mask = torch.ones(batch, length, dtype=torch.bool)
    meta = SequenceMeta.from_mask(mask, event_time=event, query_time=after)
    shape = (batch, given.heads, length, size)
    tensors = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    position = torch.randn(length, requires_grad=True)
    table = torch.randn(TIME_BUCKETS, requires_grad=True)
    upstream = torch.randn(shape)

    def attention(form: Callable[..., torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            pairs = Pairs.of(meta, "request")
            if form is plain_attention:
                bias = position.index_select(0, pairs.distance.flatten()).view(length, length)
            else:
                bias = lookup(position, pairs.distance)
            out = form(*tensors, normalizer=length, bias=bias, table=table, buckets=pairs.gaps)
            out.backward(upstream)

        return run

    model = HSTU(d_model=given.width, max_length=length, layers=2, heads=given.heads, dropout=0.0)
    x = torch.randn(batch, length, given.width)

    def whole(form: Callable[..., torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            hstu.pointwise_attention = form
            model(x, meta).square().mean().backward()

        return run

    timed = whole if given.model else attention
    plain, blocked = best_of(given.repeats, timed(plain_attention), timed(pointwise_attention))
    what = "two layers" if given.model else "attention"
    print(
        f"{what}, B={batch} H={given.heads} D={given.width} N={length}, "
        f"{torch.get_num_threads()} threads: plain {plain * 1e3:.0f} ms, "
        f"blocked {blocked * 1e3:.0f} ms, ratio {plain / blocked:.1f}"
    )


if __name__ == "__main__":
    main()
