"""Tries on disk: what comes back, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genrec.artefacts import atomic_folder, read_json, write_json
from genrec.decoding import PrefixTrie, load_trie, save_trie
from genrec.errors import ArtefactError


def make(removed=0):
    codes = np.random.default_rng(0).integers(0, 5, (60, 3)) * [1, 1, 80]
    trie = PrefixTrie.from_codes(codes, [5, 5, 400])
    return trie.remove(range(removed)) if removed else trie


def same(a, b):
    assert (a.codebook_sizes, a.max_branch, a.num_live) == (
        b.codebook_sizes,
        b.max_branch,
        b.num_live,
    )
    for name in ("leaf_items", "item_position", "item_leaf", "leaf_tie", "tie_order"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("tokens", "pointers", "item_starts"):
        for one, other in zip(getattr(a, name), getattr(b, name), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other), name
    assert (a.live is None) == (b.live is None)
    if a.live is not None:
        assert torch.equal(a.live.words, b.live.words)


@pytest.mark.parametrize("removed", [0, 7])
@pytest.mark.parametrize("deep", [True, False])
def test_a_trie_comes_back_and_can_change(tmp_path, removed, deep):
    trie = make(removed)
    save_trie(trie, tmp_path / "trie")
    loaded = load_trie(tmp_path / "trie", deep=deep)
    same(loaded, trie)
    new = [[0, 4, 399], [4, 4, 0]]
    same(loaded.add(new), trie.add(new))
    same(loaded.remove([20, 30]), trie.remove([20, 30]))
    same(load_trie(tmp_path / "trie"), trie)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mappings")
def test_arrays_are_mapped_not_read(tmp_path):
    save_trie(make(), tmp_path / "trie")
    trie = load_trie(tmp_path / "trie")
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    assert trie.leaf_items[0] == make().leaf_items[0]


def test_missing_truncated_and_other_folders_are_errors(tmp_path):
    with pytest.raises(ArtefactError, match="no such folder"):
        load_trie(tmp_path / "none")
    save_trie(make(), tmp_path / "trie")
    shutil.copytree(tmp_path / "trie", tmp_path / "cut")
    whole = (tmp_path / "trie/trie.safetensors").read_bytes()
    (tmp_path / "cut/trie.safetensors").write_bytes(whole[:-8])
    with pytest.raises(ArtefactError, match="was changed or truncated"):
        load_trie(tmp_path / "cut")
    with pytest.raises(ArtefactError, match="does not hold a trie"):
        load_trie(tmp_path / "cut", deep=False)
    with atomic_folder(tmp_path / "other", kind="dataset") as folder:
        (folder / "x").write_text("")
    with pytest.raises(ArtefactError, match="is a 'dataset' folder"):
        load_trie(tmp_path / "other")


def edit(name, change):
    """A function that changes one array of a trie's tensors."""

    def apply(tensors):
        tensors[name] = change(tensors[name].clone())

    return apply


def put(index, value):
    def change(tensor):
        tensor[index] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("leaf_tie"), "arrays leaf_tie are missing or not expected"),
        (lambda t: t.update(more=torch.ones(1)), "arrays more are missing or not expected"),
        (edit("tokens.2", lambda t: t.to(torch.int32)), "tokens.2 of type torch.int32"),
        (edit("tokens.1", lambda t: t[:-1].clone()), r"tokens.1 of length \d+, expected"),
        (edit("pointers.1", put(1, 0)), "pointers.1 do not rise from 0"),
        (edit("item_starts.3", put(-1, 3)), "item_starts.3 do not rise from 0 to 60"),
        (edit("item_starts.1", put(1, 2)), "item_starts.1 do not follow from those below"),
        (edit("tokens.0", put(4, 9)), "tokens.0 are not codes below 5"),
        (edit("tokens.2", put(0, 399)), "tokens.2 are not sorted below each node"),
        (edit("leaf_items", put(0, 60)), "leaf_items are not items below 60"),
        (edit("item_leaf", put(0, 60)), "item_leaf does not follow from leaf_items"),
        (edit("item_position", put(59, -1)), "item_position does not follow from leaf_items"),
        (edit("tie_order", put(0, 60)), "tie_order is no permutation"),
        (edit("leaf_tie", put(-1, 60)), "leaf_tie are not the ranks of the leaves' first items"),
        (edit("live", put((0, 0), -1)), "live marks positions beyond the last"),
        (edit("live", lambda t: t.repeat(2, 1)), "live of shape"),
        (edit("item_starts.0", lambda t: t.repeat(2)), r"nodes \[3, .* of 60 items|of length"),
    ],
)
def test_arrays_that_make_no_trie_are_named(tmp_path, change, message):
    save_trie(make(removed=3), tmp_path / "trie")
    tensors = load_file(str(tmp_path / "trie/trie.safetensors"))
    change(tensors)
    with atomic_folder(tmp_path / "bad", kind="trie") as folder:
        write_json(folder / "trie.json", read_json(tmp_path / "trie/trie.json"))
        save_file(tensors, str(folder / "trie.safetensors"))
    with pytest.raises(ArtefactError, match=message):
        load_trie(tmp_path / "bad")


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize(("level", "size"), [(0, 2), (1, 4), (2, 320)])
def test_codebooks_smaller_than_the_codes_are_an_error(tmp_path, level, size, deep):
    sizes = [5, 5, 400]
    sizes[level] = size
    save_trie(make(), tmp_path / "trie")
    with atomic_folder(tmp_path / "bad", kind="trie") as folder:
        write_json(folder / "trie.json", {"codebook_sizes": sizes})
        shutil.copy(tmp_path / "trie/trie.safetensors", folder)
    with pytest.raises(ArtefactError, match=f"tokens.{level} are not codes below {size}"):
        load_trie(tmp_path / "bad", deep=deep)


@pytest.mark.parametrize(
    "config", [{}, [], {"codebook_sizes": [0]}, {"codebook_sizes": 3}, {"codebook_sizes": "555"}]
)
def test_a_bad_configuration_is_an_error(tmp_path, config):
    save_trie(make(), tmp_path / "trie")
    with atomic_folder(tmp_path / "bad", kind="trie") as folder:
        write_json(folder / "trie.json", config)
        shutil.copy(tmp_path / "trie/trie.safetensors", folder)
    with pytest.raises(ArtefactError, match="does not hold a trie"):
        load_trie(tmp_path / "bad")
