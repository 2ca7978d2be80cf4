"""Time beam search with one set of history keys per user beside one set per beam, in one run.

    OMP_NUM_THREADS=1 python scripts/bench_shared_history.py --length 200 --batch 32 --beam 50

Both search the same trie with the same decoder of `transformers` and the same weights. `shared` is
`Backbone.decode_step`: the history's keys and values exist once per user, and beams reorder only
the rows of their own codes. `repeated` is what `generate()` does: transformers' `DynamicCache`
holds a copy of the history for every beam, and all copies are reordered at every step. Reading the
history (the prefill) is done once before, for both, and is not in the times; the first copies are.
Scores, and the items of lists without near ties, are compared before anything is timed; then the
two take turns.
"""

from __future__ import annotations

import argparse
import inspect
import os
import statistics
import time
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, DynamicCache
from transformers.utils import logging

from genrec.decoding import PrefixTrie, SearchResult, beam_search
from genrec.models import (
    CodeDecoder,
    HuggingFaceDecoder,
    ItemTables,
    SequenceMeta,
    SidTokens,
    TokenHead,
)

CODES = 256
NEAR = 1e-4  # scores of other items may be in another order


class Repeated:
    """The steps of a search whose beams hold a cache each, as in transformers."""

    returns_logits = True

    def __init__(self, model: Any, shared: CodeDecoder, cache: Any) -> None:
        self.model, self.shared, self.cache = model, shared, cache
        known = inspect.signature(type(model).forward).parameters
        self.given_as = "cache" if "cache" in known else "past_key_values"  # its older name

    def first(self) -> tuple[torch.Tensor, None]:
        """Logits of the first code, from the state after the history."""
        return self.shared.first()[0], None

    def next(
        self, state: DynamicCache | None, parent: torch.Tensor, code: torch.Tensor, level: int
    ) -> tuple[torch.Tensor, DynamicCache]:
        """Copy the history for each beam, or reorder the copies; then one token per beam."""
        users, width = parent.shape
        if state is None:
            state = DynamicCache(config=self.model.config)
            for layer, (key, value) in enumerate(self.cache):
                state.update(
                    key.repeat_interleave(width, 0), value.repeat_interleave(width, 0), layer
                )
        else:
            wide = state.layers[0].keys.shape[0] // users
            state.reorder_cache((parent + wide * torch.arange(users)[:, None]).flatten())
        out = self.model(
            inputs_embeds=self.shared.token(code, level - 1).flatten(0, 1)[:, None],
            use_cache=True,
            **{self.given_as: state},
        )
        hidden = out.last_hidden_state.view(users, width, -1)
        return self.shared.head.level_logits(level, hidden), state

    def select(self, rows: torch.Tensor) -> Repeated:
        """The same decoder for some users."""
        kept = [tuple(one[rows] for one in layer) for layer in self.cache]
        return Repeated(self.model, self.shared.select(rows), kept)


def compare(one: SearchResult, two: SearchResult) -> int:
    """How many lists were compared item by item: those in which no two scores are nearly equal.

    Raises:
        SystemExit: if scores, or the items of such lists, differ.
    """
    if not torch.allclose(one.scores, two.scores, atol=NEAR):
        raise SystemExit("the two searches differ in their scores")
    clear = (one.scores[:, :-1] - one.scores[:, 1:] > NEAR).all(dim=1)
    if not torch.equal(one.items[clear], two.items[clear]):
        raise SystemExit("the two searches differ in their items")
    return int(clear.sum())


@torch.inference_mode()
def measure(
    *,
    length: int,
    batch: int,
    beam: int,
    levels: int,
    items: int,
    width: int,
    layers: int,
    heads: int,
    architecture: str,
    k: int,
    repeats: int,
    seed: int,
) -> dict[str, float]:
    """Medians of both searches, their ratio, and how far their scores are apart.

    Raises:
        SystemExit: if their items or scores differ.
    """
    torch.manual_seed(seed)
    codes = torch.randint(CODES, (items, levels))
    tables = ItemTables(num_items=items, codebook_sizes=(CODES,) * levels).fill(codes=codes.int())
    trie = PrefixTrie.from_codes(codes, [CODES] * levels)
    encoder = SidTokens(tables=tables, d_model=width).eval()
    head = TokenHead(tables=tables, encoder=encoder, d_model=width).eval()
    torch.nn.init.normal_(head.output.weight, std=0.2)
    backbone = HuggingFaceDecoder(
        d_model=width,
        max_length=length + levels,
        architecture=architecture,
        layers=layers,
        heads=heads,
    ).eval()
    config = AutoConfig.for_model(**backbone.model.config.to_dict())
    theirs = AutoModel.from_config(config, attn_implementation="sdpa").eval()
    theirs.load_state_dict(backbone.model.state_dict(), strict=False)

    meta = SequenceMeta.from_mask(torch.ones(batch, length, dtype=torch.bool))
    context = backbone.encode(torch.randn(batch, length, width), meta)
    shared = CodeDecoder(backbone=backbone, head=head, token=encoder.token, context=context)
    ways = {"shared": shared, "repeated": Repeated(theirs, shared, context.cache)}
    found = {name: beam_search(way, trie, k=k, beam_width=beam) for name, way in ways.items()}
    one, two = found["shared"], found["repeated"]
    compared = compare(one, two)

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter(), time.process_time()
            beam_search(way, trie, k=k, beam_width=beam)
            ended = time.perf_counter(), time.process_time()
            times[name].append((1e3 * (ended[0] - started[0]), 1e3 * (ended[1] - started[1])))
    medians = {name: statistics.median(spent for spent, _ in each) for name, each in times.items()}
    least = {name: min(spent for spent, _ in each) for name, each in times.items()}
    processor = {name: min(spent for _, spent in each) for name, each in times.items()}
    return {
        "shared, ms": medians["shared"],
        "repeated, ms": medians["repeated"],
        "ratio": medians["repeated"] / medians["shared"],
        "ratio of least times": least["repeated"] / least["shared"],
        "ratio of processor times": processor["repeated"] / processor["shared"],
        "lists whose items were compared": compared,
        "largest difference of scores": float((one.scores - two.scores).abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--length", type=int, default=200, help="tokens of a history")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--beam", type=int, default=50)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--architecture", default="llama")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    logging.set_verbosity_error()
    print(
        ", ".join(f"{name} {value}" for name, value in given.items())
        + f"; {torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__}"
    )
    print(f"repeated: the copies are reordered at each of the {given['levels'] - 1} steps")
    for name, value in measure(**given).items():
        print(f"{name}: {value:.3g}")


if __name__ == "__main__":
    main()
