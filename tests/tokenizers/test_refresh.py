from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import PrefixTrie
from genrec.errors import ConfigError, DataError
from genrec.quantization import make_quantizer
from genrec.tokenizers import (
    SidVocabulary,
    add_items,
    build_vocabulary,
    churn,
    refresh_vocabulary,
    remove_items,
)
from genrec.tokenizers.churn import churn_rows
from genrec.tokenizers.refit import match_labels, refit_quantizer, relabel_quantizer

POLICIES = ("allow", "append", "reassign", "sinkhorn")
KINDS = {
    "rq-kmeans": {"codebook_sizes": [8, 8, 8]},
    "opq": {"num_subspaces": 3, "codebook_size": 8},
    "mhq": {"num_subspaces": 3, "levels": 1, "codebook_size": 8, "epochs": 3},
    "rq-vae": {"codebook_sizes": [8, 8, 8], "hidden": [16], "latent": 4, "steps": 150},
}


def build(vectors, item_ids, policy="reassign", count=100, kind="rq-kmeans"):
    """A vocabulary of the first `count` items."""
    quantizer = make_quantizer(kind, **KINDS[kind])
    return build_vocabulary(vectors[:count], item_ids[:count], quantizer, collisions=policy)


def sids(vocabulary):
    return dict(
        zip(vocabulary.item_ids.tolist(), map(tuple, vocabulary.codes.tolist()), strict=True)
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("refit", [False, True])
def test_no_change_no_churn(vectors, item_ids, policy, refit):
    old = build(vectors, item_ids, policy)
    shuffle = np.random.default_rng(0).permutation(100)
    ids = [item_ids[n] for n in shuffle]
    new = refresh_vocabulary(old, vectors[shuffle], ids, refit=refit)
    assert churn(old, new) == {
        "items_kept": 100,
        "items_added": 0,
        "items_removed": 0,
        "changed_tuples": 0.0,
        "changed_levels": [0.0] * old.num_levels,
        "codebook_sizes": [list(old.codebook_sizes)] * 2,
    }
    assert new.config["refresh"]["churn"] == churn(old, new)
    assert refresh_vocabulary(old, vectors[:100], item_ids[:100]).fingerprint == old.fingerprint
    new.check_vectors(vectors[shuffle])


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(POLICIES), st.integers(0, 10_000))
def test_items_that_stay_keep_their_sids(given_codebooks, vectors, item_ids, policy, seed):
    rng = np.random.default_rng(seed)
    quantizer = given_codebooks.random((4, 4, 8), vectors.shape[1], seed)
    first, second = (rng.permutation(120)[: rng.integers(1, 120)] for _ in range(2))
    ids = np.array(item_ids, dtype=object)
    old = build_vocabulary(vectors[first], ids[first], quantizer, collisions=policy, fit=False)
    new = refresh_vocabulary(old, vectors[second], ids[second])
    assert new.item_ids.tolist() == ids[second].tolist()
    before, after = sids(old), sids(new)
    assert all(after[item] == before[item] for item in before.keys() & after.keys())
    raw = dict(zip(ids.tolist(), map(tuple, quantizer.encode(vectors).tolist()), strict=True))
    added = after.keys() - before.keys()
    if policy in ("append", "reassign"):
        assert len(set(after.values())) == len(after)
    if policy in ("allow", "append"):
        assert all(after[item][:3] == raw[item] for item in added)
    if policy == "sinkhorn":
        assert all(after[item][:2] == raw[item][:2] for item in added)
    report = new.config["refresh"]["churn"]
    assert report["items_kept"] == len(before.keys() & after.keys())
    assert report["items_added"] == len(added)
    assert report["items_removed"] == len(before.keys() - after.keys())
    assert report["changed_tuples"] == 0


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(POLICIES), st.integers(0, 10_000))
def test_the_trie_of_changed_items_is_the_trie_built_from_nothing(
    given_codebooks, vectors, item_ids, policy, seed
):
    """Any chain of additions, removals and refreshes: array by array, dtypes included."""
    rng = np.random.default_rng(seed)
    quantizer = given_codebooks.random((4, 4, 8), vectors.shape[1], seed)
    ids = np.array(item_ids, dtype=object)
    some = rng.permutation(120)[: rng.integers(1, 110)]
    made = build_vocabulary(vectors[some], ids[some], quantizer, collisions=policy, fit=False)
    made.trie()
    for _ in range(3):
        there = np.isin(ids, made.item_ids)
        new, old = np.flatnonzero(~there), rng.permutation(made.item_ids)
        before = made
        way = rng.integers(3)
        if way == 0 and len(new):
            new = rng.permutation(new)[: rng.integers(1, len(new) + 1)]
            made = add_items(made, vectors[new], ids[new])
        elif way == 1 and len(old) > 1:
            made = remove_items(made, old[: rng.integers(1, len(old))])
        else:
            some = rng.permutation(120)[: rng.integers(1, 121)]
            made = refresh_vocabulary(made, vectors[some], ids[some])
        same_sizes = made.codebook_sizes == before.codebook_sizes
        assert ("_trie" in made.__dict__) == same_sizes
        fresh = PrefixTrie.from_codes(made.codes, made.codebook_sizes, made.tie_order)
        for name, value in vars(fresh).items():
            mine = getattr(made.trie(), name)
            if name == "identity":
                continue
            pairs = zip(mine, value, strict=True) if isinstance(value, list) else [(mine, value)]
            for one, other in pairs:
                if isinstance(other, torch.Tensor):
                    assert one.dtype == other.dtype and torch.equal(one, other), name
                else:
                    assert one == other, name


def test_a_refit_carries_the_trie_on(vectors, item_ids):
    old = build(vectors, item_ids)
    old.trie()
    new = refresh_vocabulary(old, vectors, item_ids, refit=True)
    assert "_trie" in new.__dict__ and churn(old, new)["changed_tuples"] > 0
    found = new.trie()
    assert (found.leaf_codes(found.item_leaf.long()).numpy() == new.codes).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_adding_and_removing_is_refreshing(vectors, item_ids, policy):
    old = build(vectors, item_ids, policy)
    smaller = remove_items(old, item_ids[:30])
    assert smaller.item_ids.tolist() == item_ids[30:100]
    assert (smaller.codes == old.codes[30:]).all()
    assert smaller.codebook_sizes == old.codebook_sizes
    larger = add_items(smaller, vectors[100:], item_ids[100:])
    whole = refresh_vocabulary(old, vectors[30:], item_ids[30:])
    assert larger.fingerprint == whole.fingerprint
    assert larger.vectors_fingerprint == "" != whole.vectors_fingerprint
    assert (larger.fitted == whole.fitted).all() and larger.fitted.sum() == 70


def test_refreshed_vocabularies_are_saved_and_refreshed_again(vectors, item_ids, tmp_path):
    old = build(vectors, item_ids, "append", 60)
    new = refresh_vocabulary(old, vectors[:100], item_ids[:100])
    new.save_pretrained(tmp_path / "v")
    loaded = SidVocabulary.from_pretrained(tmp_path / "v")
    assert loaded.fingerprint == new.fingerprint
    assert loaded.config["refresh"]["from"] == old.fingerprint
    again = refresh_vocabulary(loaded, vectors, item_ids)
    assert (again.codes[:100] == new.codes).all()
    assert again.codebook_sizes[-1] >= new.codebook_sizes[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_refit_keeps_what_it_can(vectors, item_ids, kind):
    old = build(vectors, item_ids, kind=kind)
    new = refresh_vocabulary(old, vectors, item_ids, refit=True)
    codes = new.quantizer.encode(vectors)
    same = (old.quantizer.encode(vectors[:100]) == codes[:100]).all(axis=1)
    assert (new.codes[:100][same] == old.codes[same]).all()
    assert new.num_tuples == 120
    plain = make_quantizer(kind, **KINDS[kind]).fit(vectors)
    anew = (plain.encode(vectors[:100]) == old.quantizer.encode(vectors[:100])).all(axis=1)
    assert same.mean() >= anew.mean()
    assert new.fitted.all()
    found = new.config["refresh"]
    assert found["refit"] and found["churn"]["changed_tuples"] <= 1 - same.mean()

    def error(quantizer):
        return ((quantizer.decode(quantizer.encode(vectors)) - vectors) ** 2).sum(axis=1).mean()

    # Renamed, not changed: as good as a fit from nothing, up to where k-means stops.
    assert error(new.quantizer) < 1.5 * error(plain)


def test_a_refit_sees_only_the_items_to_fit_on(vectors, item_ids):
    old = build(vectors, item_ids)
    poisoned = vectors.copy()
    poisoned[110:] *= 100
    mask = np.arange(120) < 110
    one = refresh_vocabulary(old, vectors, item_ids, refit=True, fit_items=mask)
    two = refresh_vocabulary(old, poisoned, item_ids, refit=True, fit_items=np.arange(110))
    for mine, theirs in zip(one.quantizer.codebooks(), two.quantizer.codebooks(), strict=True):
        assert (mine == theirs).all()
    assert (one.fitted == mask).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 30), st.integers(1, 4))
def test_labels_keep_most_items_on_each_level_in_turn(seed, num_items, size):
    rng = np.random.default_rng(seed)
    old, new = rng.integers(0, size, (2, num_items, 2))
    labels = match_labels(old, new, (size, size))
    kept = np.ones(num_items, dtype=bool)
    for level in range(2):

        def score(label, level=level, kept=kept):
            same = np.array(label)[new[:, level]] == old[:, level]
            return (same & kept).sum(), same.sum()

        best = max(score(label) for label in itertools.permutations(range(size)))
        assert sorted(labels[level].tolist()) == list(range(size))
        assert score(labels[level]) == best
        kept &= labels[level][new[:, level]] == old[:, level]


def test_labels_of_a_renamed_quantizer_are_found_and_undone(vectors):
    rng = np.random.default_rng(0)
    for kind, options in KINDS.items():
        quantizer = make_quantizer(kind, **options).fit(vectors)
        codes = quantizer.encode(vectors)
        renaming = [rng.permutation(8) for _ in range(3)]
        renamed = relabel_quantizer(quantizer, renaming)
        other = renamed.encode(vectors)
        assert (other == np.stack([renaming[n][codes[:, n]] for n in range(3)], axis=1)).all()
        np.testing.assert_array_equal(renamed.decode(other), quantizer.decode(codes))
        back = relabel_quantizer(renamed, match_labels(codes, other, (8, 8, 8)))
        assert (back.encode(vectors) == codes).all()


def test_a_quantizer_that_cannot_be_renamed_is_found_before_the_fit(vectors, item_ids, monkeypatch):
    old = build(vectors, item_ids)
    monkeypatch.setattr(old.quantizer, "_state", lambda: {"centres": np.zeros(3)})
    monkeypatch.setattr("genrec.tokenizers.refresh.refit_quantizer", None)
    with pytest.raises(ConfigError, match="'rq-kmeans': its codes cannot be renamed"):
        refresh_vocabulary(old, vectors, item_ids, refit=True)


@pytest.mark.parametrize("kind", ["hash", "random"])
def test_codes_given_by_a_function_are_not_refitted(vectors, item_ids, kind, monkeypatch):
    quantizer = make_quantizer(kind, codebook_sizes=[8, 8, 8])
    old = build_vocabulary(vectors[:100], item_ids[:100], quantizer)
    monkeypatch.setattr("genrec.tokenizers.refresh.refit_quantizer", None)
    with pytest.raises(ConfigError, match=f"{kind!r}: its codes cannot be renamed"):
        refresh_vocabulary(old, vectors, item_ids, refit=True)
    assert len(refresh_vocabulary(old, vectors, item_ids)) == 120


def test_what_learned_from_collaborative_vectors_is_not_refitted(vectors, item_ids):
    options = {**KINDS["rq-vae"], "steps": 20, "warmup_steps": 5, "alignment": 0.01}
    side = {"collaborative": vectors[:100, :3]}
    quantizer = make_quantizer("rq-vae", **options)
    old = build_vocabulary(vectors[:100], item_ids[:100], quantizer, side_vectors=side)
    with pytest.raises(ConfigError, match="'rq-vae': learns from collaborative vectors too"):
        refresh_vocabulary(old, vectors, item_ids, refit=True)
    assert len(refresh_vocabulary(old, vectors, item_ids)) == 120


def test_a_refit_of_balanced_clusters_stays_balanced():
    x = np.random.default_rng(0).normal(size=(2400, 4)).astype(np.float32)
    x[1800:] = 5 * x[1800:] + 8  # a third of these is there before, the others come
    spread = {}
    for balanced in (False, True):
        options = {"codebook_sizes": [16, 16], "balanced": balanced}
        old = make_quantizer("rq-kmeans", **options).fit(x[:2000])
        fresh, anew = refit_quantizer(old, x), make_quantizer("rq-kmeans", **options).fit(x)
        assert fresh.config == old.config
        loads = [np.bincount(made.encode(x)[:, 0], minlength=16).std() for made in (fresh, anew)]
        spread[balanced] = loads[0]
    assert spread[True] < 0.5 * spread[False]
    assert spread[True] < 1.5 * loads[1]


def test_churn_by_hand():
    old = SidVocabulary([[0, 0], [0, 1], [1, 0], [1, 1]], ["a", "b", "c", "d"], [2, 2])
    new = SidVocabulary([[1, 1], [0, 0], [1, 0]], ["b", "e", "c"], [2, 2])
    found = churn(old, new)
    assert (found["items_kept"], found["items_added"], found["items_removed"]) == (2, 1, 2)
    assert found["changed_tuples"] == 0.5
    assert found["changed_levels"] == [0.5, 0.0]
    longer = SidVocabulary([[0, 0, 0]], ["a"], [2, 2, 1])
    assert churn(old, longer)["changed_tuples"] == 1.0
    assert churn(old, longer)["changed_levels"] == [0.0, 0.0]
    stranger = SidVocabulary([[0, 0]], ["z"], [2, 2])
    assert churn(old, stranger)["changed_tuples"] == 0.0


def test_the_table_of_churn_says_why_nothing_is_kept():
    def reasons(old, new):
        return [text for name, text in churn_rows(churn(old, new)) if name == "why"]

    codes, ids = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), ["a", "b", "c", "d"]
    old = SidVocabulary(codes, ids, [2, 2])
    assert reasons(old, old) == []
    assert reasons(old, SidVocabulary(codes[[0, 1, 3, 2]], ids, [2, 2])) == []
    (apart,) = reasons(old, SidVocabulary(1 - codes, ids, [2, 2]))
    assert "genrec refresh" in apart
    (strangers,) = reasons(old, SidVocabulary(codes, ["w", "x", "y", "z"], [2, 2]))
    assert "no item id in common" in strangers


def test_errors(vectors, item_ids):
    old = build(vectors, item_ids)
    with pytest.raises(DataError, match=r"'item-099': is in the SID vocabulary already \(1 of 2"):
        add_items(old, vectors[99:101], item_ids[99:101])
    with pytest.raises(DataError, match="item id 7: expected ids like 'item-000'"):
        add_items(old, vectors[:1], [7])
    with pytest.raises(DataError, match=r"'item-100': not in the SID vocabulary \(1 unknown of 2"):
        remove_items(old, item_ids[99:101])
    with pytest.raises(DataError, match="no items"):
        remove_items(old, item_ids[:100])
    with pytest.raises(DataError, match="3 rows for 120 items"):
        refresh_vocabulary(old, vectors[:3], item_ids)
    with pytest.raises(DataError, match="columns; this quantizer was fitted on 6"):
        refresh_vocabulary(old, vectors[:, :5], item_ids)
    with pytest.raises(DataError, match="have 3 rows to fit on, but a level has 8 codes"):
        refresh_vocabulary(old, vectors, item_ids, refit=True, fit_items=[0, 1, 2])
    imported = SidVocabulary([[0], [1]], ["item-000", "x"], [2])
    for refit in (False, True):
        with pytest.raises(ConfigError, match="has no quantizer"):
            refresh_vocabulary(imported, vectors, item_ids, refit=refit)
    assert remove_items(imported, ["x"]).codes.tolist() == [[0]]
    turned = 1 - SidVocabulary([[0], [1]], ["a", "b"], [2]).tie_order
    other = SidVocabulary([[0], [1]], ["a", "b"], [2], tie_order=turned)
    with pytest.raises(DataError, match="is not make_tie_order"):
        remove_items(other, ["a"])
