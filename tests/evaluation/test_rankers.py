from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import Filter, PrefixTrie
from genrec.errors import ConfigError
from genrec.evaluation import ModelRanker, PopularityRanker, Ranker, ranks_from_search
from genrec.evaluation.ranks import is_excluded, ranks_from_scores
from genrec.models import Recommender


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_popularity_equals_brute_force(data: st.DataObject) -> None:
    items = data.draw(st.integers(1, 12), label="items")
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=items, max_size=items)))
    tie_order = np.array(data.draw(st.permutations(range(items))))
    width = data.draw(st.integers(0, 5))
    padded = st.lists(st.integers(-1, items - 1), min_size=width, max_size=width)
    exclude = data.draw(st.lists(padded, min_size=1, max_size=4), label="exclude")
    k = data.draw(st.integers(1, 14), label="k")
    rows = len(exclude)
    excluded = torch.tensor(exclude, dtype=torch.int64).reshape(rows, width)
    kept = data.draw(st.sampled_from([0, 1, rows]), label="rows of the filter")
    passed = [[True] * items] * rows
    some = None
    ranker = PopularityRanker(counts, tie_order)
    if kept:
        flags = st.lists(st.booleans(), min_size=items, max_size=items)
        mask = data.draw(st.lists(flags, min_size=kept, max_size=kept), label="filter")
        passed = mask * (rows // kept)
        some = Filter.from_mask(ranker.filters_for, np.array(mask))
    batch = {"items": torch.zeros(rows, 1, dtype=torch.int64)}
    result = ranker.search(batch, k=k, exclude=excluded, filter=some)

    for row in range(rows):
        allowed = [item for item in range(items) if item not in exclude[row] and passed[row][item]]
        expected = sorted(allowed, key=lambda item: (-counts[item], tie_order[item]))[:k]
        assert result.items[row].tolist() == expected + [-1] * (k - len(expected))
        assert result.scores[row, : len(expected)].tolist() == counts[expected].tolist()
    for target in range(items):
        targets = torch.full((rows,), target)
        hidden = is_excluded(targets, excluded) | ~torch.tensor(passed)[:, target]
        ranks = ranks_from_search(result, ranker.leaf_of(targets), excluded=hidden)
        scores = torch.from_numpy(counts).float().expand(rows, items)
        scores = scores.masked_fill(~torch.tensor(passed), float("-inf"))
        reference = ranks_from_scores(scores, targets, exclude=excluded)
        for row in range(rows):
            if ranks.found[row]:
                assert ranks.before[row] == reference.before[row]
                assert ranks.ties[row] == reference.ties[row]
            else:  # further down than the list, or not allowed
                assert reference.before[row] >= k or reference.before[row] == -1


def test_popularity_without_exclusions() -> None:
    ranker = PopularityRanker(np.array([1, 5, 1, 0]), np.array([3, 2, 1, 0]))
    result = ranker.search({"items": torch.zeros(2, 3, dtype=torch.int64)}, k=3)
    assert result.items.tolist() == [[1, 2, 0]] * 2
    assert result.leaf_sizes.tolist() == [[1, 2]] * 2
    assert result.certified.all()
    assert isinstance(ranker, Ranker)
    with pytest.raises(ValueError, match="items"):
        PopularityRanker(np.zeros(3, dtype=int), np.arange(4))


def item_scores(model: Recommender, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Score of every item, one prefix after another: the definition."""
    model.eval()
    with torch.no_grad():
        hidden = model.encode(batch["items"], batch["mask"])
        scores = torch.zeros(len(hidden), model.config.num_items)
        for user in range(len(hidden)):
            decoder = model.head.decoder(hidden[user : user + 1])
            for item, codes in enumerate(model.tables.codes.tolist()):
                logits, state = decoder.first()
                total = logits[0].log_softmax(-1)[codes[0]]
                for level in range(1, len(codes)):
                    logits, state = decoder.next(
                        state, torch.zeros(1, 1).long(), torch.tensor([[codes[level - 1]]]), level
                    )
                    total = total + logits[0, 0].log_softmax(-1)[codes[level]]
                scores[user, item] = total
    return scores


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(60, (6, 5), generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 4, 3, 5, 1, 2])[:, None]
    return {"items": items * mask, "mask": mask}


def test_a_sid_model_equals_brute_force(
    sid_model: Recommender, trie: PrefixTrie, batch: dict[str, torch.Tensor]
) -> None:
    scores = item_scores(sid_model, batch).round(decimals=4)
    exclude = torch.where(batch["mask"], batch["items"], -1)
    ranker = ModelRanker(sid_model, trie, beam_width=100)
    for excluded in (None, exclude):
        result = ranker.search(batch, k=20, exclude=excluded)
        for target in range(60):
            targets = torch.full((6,), target)
            ranks = ranks_from_search(
                result, ranker.leaf_of(targets), excluded=is_excluded(targets, excluded)
            )
            reference = ranks_from_scores(scores, targets, exclude=excluded)
            for row in range(6):
                if ranks.found[row]:
                    assert ranks.before[row] == reference.before[row]
                    assert ranks.ties[row] == reference.ties[row]
                else:
                    assert reference.before[row] >= 20 or reference.before[row] == -1


def test_an_item_model_needs_no_trie(
    item_model: Recommender, trie: PrefixTrie, batch: dict[str, torch.Tensor]
) -> None:
    ranker = ModelRanker(item_model)
    found = ranker.search(batch, k=10)
    assert not ranker.has_tuples
    assert ranker.leaf_of(torch.tensor([3, 5])).tolist() == [3, 5]
    assert torch.equal(found.items, found.leaves)
    # A trie that the head does not use changes nothing.
    again = ModelRanker(item_model, trie)
    assert torch.equal(again.search(batch, k=10).items, found.items)
    assert again.leaf_of(torch.tensor([3])).tolist() == [3]
    assert ranker.settings()["beam_width"] is None and ranker.settings()["exact"]
    assert "scores" not in ranker.settings()


@pytest.mark.parametrize("kind", ["sid", "item", "popularity"])
def test_every_ranker_searches_within_a_filter(
    sid_model: Recommender,
    item_model: Recommender,
    trie: PrefixTrie,
    batch: dict[str, torch.Tensor],
    kind: str,
) -> None:
    tie_order = np.random.default_rng(0).permutation(60)
    rankers = {
        "sid": ModelRanker(sid_model, trie, beam_width=100),
        "item": ModelRanker(item_model),
        "popularity": PopularityRanker(np.arange(60) // 7, tie_order),
    }
    ranker = rankers[kind]
    everything = ranker.search(batch, k=60).items
    generator = torch.Generator().manual_seed(3)
    for rows in (1, 6):
        mask = torch.rand(rows, 60, generator=generator) < 0.4
        some = Filter.from_mask(ranker.filters_for, mask)
        exclude = torch.where(batch["mask"], batch["items"], -1)
        found = ranker.search(batch, k=8, exclude=exclude, filter=some)
        for row, ranking in enumerate(everything.tolist()):
            allowed = mask[row % rows]
            left = [i for i in ranking if allowed[i] and i not in exclude[row].tolist()]
            assert found.items[row].tolist() == left[:8]
    if kind != "popularity":
        options = {"k": 8, "trie": ranker.trie, "filter": some, "beam_width": 100}
        found = ranker.model.eval().search(batch, **options)
        assert torch.equal(found.items, ranker.search(batch, k=8, filter=some).items)


def test_prepare_shares_the_encoding_and_leaves_the_mode_alone(
    sid_model: Recommender, trie: PrefixTrie, batch: dict[str, torch.Tensor]
) -> None:
    ranker = ModelRanker(sid_model, trie, beam_width=30)
    sid_model.train()
    encoded = ranker.prepare(batch)
    once = ranker.search(encoded, k=5)
    assert sid_model.training
    sid_model.eval()
    assert torch.equal(once.items, ranker.search(batch, k=5).items)
    assert set(encoded) == {"hidden", "encoded"}


def test_settings_and_replacement(sid_model: Recommender, trie: PrefixTrie) -> None:
    ranker = ModelRanker(sid_model, trie, beam_width=30, name="sid")
    wide = ranker.replace(beam_width=99, exact=True)
    assert (ranker.beam_width, ranker.exact) == (30, False)
    assert wide.settings()["beam_width"] == 99 and wide.settings()["exact"]
    assert wide.settings()["scores"] == "masked"
    assert wide.replace(renormalize=True).settings()["scores"] == "renormalized"
    assert wide.settings()["parameters"] == sum(p.numel() for p in sid_model.parameters())
    with pytest.raises(TypeError, match="trie"):
        ranker.replace(trie=None)
    with pytest.raises(ConfigError, match="sid: this head scores codes"):
        ModelRanker(sid_model, name="sid")
