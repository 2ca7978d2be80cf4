"""`expand_beams`, for other people's loops: filters as in searches, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec.decoding import Filter, PrefixTrie, beam_search, expand_beams
from genrec.errors import ConfigError
from tests.decoding.cases import TableDecoder, tables

BACKENDS = ["torch-only", "torch", "compiled"]
SIZES = (7, 6, 5)


def made(items=90):
    codes = np.random.default_rng(0).integers(0, SIZES, (items, 3))
    return PrefixTrie.from_codes(codes, SIZES)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("per_user", [False, True])
def test_steps_with_filters_and_exclusions_make_a_search(backend, per_user):
    rng, trie, batch, width = np.random.default_rng(1), made(), 4, 6
    decoder = TableDecoder(tables(rng, batch, SIZES))
    mask = torch.from_numpy(rng.random((batch, 90) if per_user else 90) < 0.6)
    options = {
        "filter": Filter.from_mask(trie, mask),
        "exclude": torch.from_numpy(rng.integers(-1, 90, (batch, 12))),
        "backend": backend,
    }
    nodes, scores = torch.zeros(batch, 1, dtype=torch.int64), torch.zeros(batch, 1)
    log_probs, state = decoder.first()
    log_probs = log_probs[:, None]
    for level in range(3):
        step = expand_beams(trie, level, log_probs, nodes, scores, keep=width, **options)
        nodes, scores = step.nodes, step.scores
        if level < 2:
            log_probs, state = decoder.next(state, step.parent, step.code, level + 1)
    whole = beam_search(decoder, trie, k=width, beam_width=width, **options)
    assert torch.equal(whole.leaves, nodes)
    assert torch.equal(whole.leaf_scores, scores)
    free = beam_search(decoder, trie, k=width, beam_width=width, backend=backend)
    assert not torch.equal(whole.leaves, free.leaves)


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": -1}, "level=-1: expected at least 0"),
        ({"level": 3}, "level=3: the trie's levels are 0 to 2"),
        ({"level": 1.0}, "level=1.0: expected an integer"),
        ({"keep": 0}, "keep=0: expected at least 1"),
        ({"keep": 2.5}, "keep=2.5: expected an integer"),
        (
            {"nodes": torch.tensor([[0, 1, 9**9]] * 2)},
            "level 1 extends the nodes 0 to 6 of depth 1",
        ),
        ({"nodes": torch.tensor([[0, 1, 7]] * 2)}, "nodes from 0 to 7"),
        ({"nodes": torch.tensor([[0, -2, 1]] * 2)}, "nodes from -2 to 1"),
        ({"nodes": ones(2, 3)}, r"nodes of shape \(2, 3\) and type torch.float32"),
        ({"nodes": ones(3, dtype=torch.int64)}, r"nodes of shape \(3,\): expected \[B, W\]"),
        ({"nodes": ones(2, 0, dtype=torch.int64)}, "one beam a user at least"),
        ({"scores": ones(2, 2)}, r"scores of shape \(2, 2\) .* expected \(2, 3\)"),
        ({"scores": ones(1, 3)}, r"scores of shape \(1, 3\)"),
        ({"scores": ones(2, 3, dtype=torch.bfloat16)}, "scores .* type torch.bfloat16"),
        ({"scores": ones(2, 3).to("meta")}, "scores .* on meta: expected .* on cpu"),
        ({"floor": ones(3)}, r"floor of shape \(3,\) .* expected \(2,\)"),
        ({"floor": ones(2, dtype=torch.float64)}, "floor .* type torch.float64"),
        ({"log_probs": ones(2, 3, 5)}, "another SID vocabulary"),
        ({"log_probs": ones(2, 3, 6, dtype=torch.int64)}, "log-probabilities of type torch.int64"),
        ({"exclude": ones(3, 1, dtype=torch.int64)}, r"exclude of shape \(3, 1\)"),
        ({"filter": Filter.allow(made(), [0])}, "the filter was made for another trie"),
    ],
)
def test_what_would_read_other_memory_or_make_nonsense_is_an_error(change, message, backend):
    trie = made()
    given = {
        "level": 1,
        "log_probs": ones(2, 3, 6),
        "nodes": torch.tensor([[0, 1, -1], [6, 3, 2]]),
        "scores": ones(2, 3),
        "keep": 4,
        "logits": True,
    }
    assert expand_beams(trie, **given, backend=backend).nodes.shape == (2, 4)
    with pytest.raises(ConfigError, match=message):
        expand_beams(trie, **given | change, backend=backend)
    of_others = Filter.from_mask(trie, torch.ones(3, 90, dtype=torch.bool))
    with pytest.raises(ConfigError, match="filter of 3 users for a batch of 2"):
        expand_beams(trie, **given, filter=of_others, backend=backend)
