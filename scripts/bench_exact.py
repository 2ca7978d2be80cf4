"""Exact top 10 with a light head by branch and bound, beside a dot product with every item.

    OMP_NUM_THREADS=1 python scripts/bench_exact.py --items 1000000

An `autoregressive` head over random tuples of 3 x 256 codes, whose logits have the standard
deviation `--sigma`, searches with `exact=True` and renormalised scores, so that no probability goes
to codes that do not exist. Beside it, the scores of as many item vectors of 128 dimensions and
`topk`. Processor time, medians, one thread. Each list must carry its certificate, and the first
user's is compared with a `beam_search` of torch operations as wide as the trie, which scores every
item.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from genrec.decoding import PrefixTrie, beam_search
from genrec.models import HEADS, ItemTables, SidEmbedding

SIZES = (256, 256, 256)
DENSE = 128  # dimensions of the items' vectors


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Milliseconds of processor time."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64, help="of the hidden states")
    parser.add_argument("--sigma", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    codes = torch.from_numpy(np.random.default_rng(given.seed).integers(0, 256, (given.items, 3)))
    tables = ItemTables(num_items=given.items, codebook_sizes=SIZES).fill(codes=codes.int())
    trie = PrefixTrie.from_codes(codes, SIZES)
    encoder = SidEmbedding(tables=tables, d_model=given.width)
    head = HEADS["autoregressive"](tables=tables, encoder=encoder, d_model=given.width).eval()
    for parameter in head.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    vectors = torch.randn(given.items, DENSE)
    print(
        f"{given.items:,} items, k {given.k}, seed {given.seed}, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )
    print("| sigma | batch | dense ms | exact ms | ratio | evaluations | mass of the list |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    options = {"k": given.k, "trie": trie, "exact": True, "renormalize": True}
    wrong = 0
    with torch.inference_mode():
        dense = {
            batch: median_ms(
                lambda batch=batch: (torch.ones(batch, DENSE) @ vectors.T).topk(given.k, dim=1), 5
            )
            for batch in given.batch
        }
        for sigma in given.sigma:
            inputs = head.project_levels(torch.randn(256, given.width))
            spread = [head.level_logits(i, inputs[:, i]).std(1).mean() for i in range(len(SIZES))]
            head.output.weight.mul_(sigma / torch.stack(spread).mean())
            for batch in given.batch:
                hidden = torch.randn(batch, given.width)
                found = head.search(hidden, **options)
                every = beam_search(
                    head.decoder(hidden[:1]),
                    trie,
                    k=given.k,
                    beam_width=trie.num_nodes[-2],
                    renormalize=True,
                    backend="torch-only",
                )
                same = torch.equal(every.items[0], found.items[0])
                wrong += not (same and bool(found.certified.all()))
                spent = median_ms(partial(head.search, hidden, **options), given.repeats)
                evaluations = float(found.evaluations.float().mean())
                mass = float(found.scores.exp().sum(1).mean())
                print(
                    f"| {sigma:g} | {batch} | {dense[batch]:.1f} | {spent:.2f} | "
                    f"{dense[batch] / spent:.1f} | {evaluations:.0f} | {mass:.3f} |"
                )
    if wrong:
        sys.exit(f"{wrong} lists are not the exact ones")


if __name__ == "__main__":
    main()
