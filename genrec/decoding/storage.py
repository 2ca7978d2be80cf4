"""A trie on disk: `trie.json` and `trie.safetensors`, mapped into memory when it is read."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genrec.artefacts import atomic_folder, check_folder, read_json, write_json
from genrec.decoding.bits import BitRank
from genrec.decoding.codes import checked_sizes
from genrec.decoding.levels import unpacked, words_of
from genrec.decoding.mutable import TrieView
from genrec.decoding.trie import ARRAYS, LISTS, PrefixTrie
from genrec.errors import ArtefactError, DataError

KIND = "trie"
CONFIG_FILE = "trie.json"
TENSOR_FILE = "trie.safetensors"
_LIVE = "live"


def save_trie(trie: PrefixTrie, folder: str | os.PathLike[str]) -> None:
    """Write a trie, removed items included; the folder is whole or absent.

    The state of a `MutableTrie` is written without removed items and free slots.

    Raises:
        ArtefactError: if the folder cannot be written, or a `MutableTrie` holds no item.
    """
    if isinstance(trie, TrieView):
        if trie.num_live == 0:
            raise ArtefactError(f"{folder}: all items were removed, there is no trie to write")
        trie = trie.compact()
    tensors = {name: getattr(trie, name) for name in ARRAYS}
    for name in LISTS:
        tensors |= {f"{name}.{i}": part for i, part in enumerate(getattr(trie, name))}
    if trie.live is not None:
        tensors[_LIVE] = trie.live.words
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_folder(folder, kind=KIND) as temporary:
        write_json(temporary / CONFIG_FILE, {"codebook_sizes": trie.codebook_sizes})
        try:
            save_file(tensors, str(temporary / TENSOR_FILE))
        except SafetensorError as error:
            raise ArtefactError(
                f"{folder}: writing the trie failed ({error}); nothing was kept; free some space "
                "or choose another folder"
            ) from error


def load_trie(
    folder: str | os.PathLike[str], *, device: torch.device | str = "cpu", deep: bool = True
) -> PrefixTrie:
    """Load what `save_trie` wrote.

    On the CPU the arrays are mapped from the file: pages are read when a search needs them, and
    processes that load the same trie share them. Replace a trie that is in use by a new folder.

    Args:
        folder: the artefact.
        device: where the trie goes.
        deep: compare the file's SHA-256 and check that the arrays make a trie, which reads all of
            it; otherwise only names, types, sizes, pointers and the range of codes are checked.

    Raises:
        ArtefactError: if the folder is missing, truncated, edited, or its arrays make no trie.
    """
    path = check_folder(folder, kind=KIND, deep=deep)
    config = read_json(path / CONFIG_FILE)
    try:
        tensors = load_file(str(path / TENSOR_FILE))
        trie = _assembled(config, tensors)
        if deep:
            _check_content(trie)
    except (SafetensorError, DataError, KeyError, TypeError, OSError) as error:
        raise ArtefactError(
            f"{path}: does not hold a trie ({error}); write it again with save_trie"
        ) from error
    return trie.to(device)


def _assembled(config: Any, tensors: dict[str, Tensor]) -> PrefixTrie:
    """The trie of these arrays if their names, types and sizes fit together."""
    sizes = checked_sizes(config["codebook_sizes"])
    levels = len(sizes)
    expected = dict.fromkeys(ARRAYS, torch.int32) | {"tie_order": torch.int64}
    for level, size in enumerate(sizes):
        listed = torch.uint8 if size <= 256 else torch.int16
        found = tensors.get(f"tokens.{level}")
        dense = found is not None and found.dtype == torch.int64
        expected[f"tokens.{level}"] = torch.int64 if dense else listed
        expected[f"pointers.{level}"] = torch.int32
    expected |= {f"item_starts.{depth}": torch.int32 for depth in range(levels + 1)}
    if _LIVE in tensors:
        expected[_LIVE] = torch.int64
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())
        raise DataError(f"arrays {', '.join(odd)} are missing or not expected")
    for name, dtype in expected.items():
        found = tensors[name]
        if found.dtype != dtype or found.ndim != (2 if name == _LIVE else 1):
            raise DataError(f"{name} of type {found.dtype} and shape {tuple(found.shape)}")
    lists = {name: [tensors[f"{name}.{i}"] for i in range(levels)] for name in LISTS}
    lists["item_starts"].append(tensors[f"item_starts.{levels}"])
    arrays = {name: tensors[name] for name in ARRAYS}

    nodes = [len(starts) - 1 for starts in lists["item_starts"]]
    positions, items = len(arrays["leaf_items"]), len(arrays["tie_order"])
    lengths = {"item_position": items, "item_leaf": items, "leaf_tie": nodes[-1]}
    lengths |= {f"pointers.{i}": nodes[i] + 1 for i in range(levels)}
    for i, (tokens, size) in enumerate(zip(lists["tokens"], sizes, strict=True)):
        dense = tokens.dtype == torch.int64
        lengths[f"tokens.{i}"] = nodes[i] * words_of(size) + 1 if dense else nodes[i + 1]
    for name, length in lengths.items():
        if len(tensors[name]) != length:
            raise DataError(f"{name} of length {len(tensors[name])}, expected {length}")
    if nodes[0] != 1 or min(nodes) < 1 or not 1 <= positions <= items:
        raise DataError(f"nodes {nodes} and {positions} positions of {items} items")
    live = None
    if _LIVE in tensors:
        if tensors[_LIVE].shape != (1, positions // 64 + 1):
            raise DataError(f"{_LIVE} of shape {tuple(tensors[_LIVE].shape)}")
        live = BitRank(tensors[_LIVE], positions)
    branch = []
    for level, pointer in enumerate(lists["pointers"]):
        _check_starts(f"pointers.{level}", pointer, nodes[level + 1])
        branch.append(int(pointer.diff().max()))
        _check_codes(f"tokens.{level}", lists["tokens"][level], pointer, sizes[level])
    return PrefixTrie(
        codebook_sizes=sizes,
        max_branch=tuple(branch),
        tokens=lists["tokens"],
        pointers=lists["pointers"],
        item_starts=lists["item_starts"],
        **arrays,
        live=live,
    )


def _check_codes(name: str, tokens: Tensor, pointer: Tensor, size: int) -> None:
    """Codes inside their codebook, and as many bits as children.

    Nothing is read of a list whose type can hold no other codes.
    """
    if tokens.dtype == torch.int64:
        bits = unpacked(tokens[:-1].view(len(pointer) - 1, -1).numpy(), 64 * words_of(size))
        counts = bits[:, :size].sum(axis=1, dtype=np.int64)
        if bits[:, size:].any() or int(tokens[-1]) or (counts != pointer.diff().numpy()).any():
            raise DataError(f"{name} are not the bits of codes below {size}, one for each child")
        return
    codes = tokens.numpy()
    codes = codes if codes.dtype == np.uint8 else codes.view(np.uint16)
    if size <= np.iinfo(codes.dtype).max and codes.max(initial=0) >= size:
        raise DataError(f"{name} are not codes below {size}")


def _check_starts(name: str, starts: Tensor, end: int) -> None:
    """Ranges that follow each other from 0 to ``end``, none of them empty."""
    sound = int(starts[0]) == 0 and int(starts[-1]) == end and bool((starts.diff() > 0).all())
    if not sound:
        raise DataError(f"{name} do not rise from 0 to {end}")


def _check_content(trie: PrefixTrie) -> None:
    """What a search relies on: sorted codes, ranges without gaps, arrays that are inverses."""
    for level in range(trie.num_levels):
        codes = trie.level(level).array().astype(np.int32)
        rises = torch.from_numpy(np.diff(codes) > 0)
        rises[trie.pointers[level][1:-1].to(torch.int64) - 1] = True
        if not bool(rises.all()):
            raise DataError(f"tokens.{level} are not sorted below each node")
    for depth, starts in enumerate(trie.item_starts):
        _check_starts(f"item_starts.{depth}", starts, trie.num_positions)
    for level, pointer in enumerate(trie.pointers):
        below = trie.item_starts[level + 1][pointer.to(torch.int64)]
        if not torch.equal(below, trie.item_starts[level]):
            raise DataError(f"item_starts.{level} do not follow from those below")
    sizes = trie.item_starts[-1].diff()
    leaves = torch.arange(trie.num_leaves, dtype=torch.int32).repeat_interleave(sizes)
    positions = torch.arange(trie.num_positions, dtype=torch.int32)
    kept = torch.ones_like(positions, dtype=torch.bool)
    if trie.live is not None:
        kept = trie.live.mask()[0]
        if not torch.equal(trie.live.words, BitRank.from_mask(kept[None]).words):
            raise DataError("live marks positions beyond the last")
    items = trie.leaf_items.to(torch.int64)
    if int(items.min()) < 0 or int(items.max()) >= trie.num_items:
        raise DataError(f"leaf_items are not items below {trie.num_items}")
    for name, values in (("item_position", positions), ("item_leaf", leaves)):
        expected = torch.full((trie.num_items,), -1, dtype=torch.int32)
        expected[items[kept]] = values[kept]
        if not torch.equal(expected, getattr(trie, name)):
            raise DataError(f"{name} does not follow from leaf_items")
    ranks = torch.zeros(trie.num_items, dtype=torch.bool)
    inside = trie.tie_order.clamp(0, trie.num_items - 1)
    ranks[inside] = True
    if not (torch.equal(inside, trie.tie_order) and bool(ranks.all())):
        raise DataError("tie_order is no permutation")
    ties = trie.tie_order[items[kept]].to(torch.int32)
    first = trie.leaf_tie.clone()
    held = leaves[kept].to(torch.int64)
    first.scatter_reduce_(0, held, ties, "amin", include_self=False)
    if not torch.equal(first, trie.leaf_tie):
        raise DataError("leaf_tie are not the ranks of the leaves' first items")
