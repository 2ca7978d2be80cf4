"""One level of a constrained search: the best children of every user's beams.

Two back ends with the same results: torch operations on any device, and a kernel compiled by numba
for the CPU. The compiled one is taken where it is installed, unless asked otherwise.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import threading
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.decoding.exclusions import Exclusions
from genrec.decoding.ranking import DEAD, key_scores, node_ties, rank_keys, top_keys
from genrec.decoding.trie import PrefixTrie
from genrec.errors import ConfigError

Backend = Literal["auto", "torch", "compiled"]

_CACHED = 2**17  # candidates of one level ranked at once on the CPU
_NEGLIGIBLE = -80.0  # exp of less is denormal, which is slow, and adds nothing to a sum near 1
_SHARE = 2**18  # log-probabilities that are worth a thread

# What the kernel gets for an option that is not used.
_NO_BOOL, _NO_FLOAT = np.empty(0, dtype=bool), np.empty(0, dtype=np.float32)
_NO_WORDS, _NO_COUNTS = np.empty((0, 0), dtype=np.int64), np.empty((0, 0), dtype=np.int32)
_NO_NODES = np.empty((0, 0), dtype=np.int64)


@dataclass
class Step:
    """The beams of ``B`` users after one level, best first.

    Attributes:
        nodes: int64 ``[B, W]``, nodes of the next depth; -1 where there are fewer, which stays so.
        scores: float32 ``[B, W]``; -inf at -1.
        parent: int64 ``[B, W]``, the column of the beam that each extends; any at -1.
        code: int64 ``[B, W]``, the code that extends it; any at -1.
        dropped: int64 ``[B]``, rank key of the best child that was not kept, see
            `genrec.decoding.ranking`.
        leaked: float32 ``[B]``, probability that went to codes without a child.
        sound: bool ``[B]``; false if a log-probability was NaN or above 0.
    """

    nodes: Tensor
    scores: Tensor
    parent: Tensor
    code: Tensor
    dropped: Tensor
    leaked: Tensor
    sound: Tensor

    @property
    def best_dropped(self) -> Tensor:
        """Score, float32 ``[B]``, of the best child that was not kept; -inf if all were."""
        return key_scores(self.dropped)


def chosen_backend(backend: str, device: torch.device) -> str:
    """``"torch"`` or ``"compiled"``.

    Args:
        backend: ``"auto"`` takes the compiled one on the CPU if numba is installed.
        device: where the trie is.

    Raises:
        ConfigError: for another name, or for ``"compiled"`` where it cannot run.
    """
    if backend not in get_args(Backend):
        raise ConfigError(f"backend={backend!r}: expected one of {', '.join(get_args(Backend))}")
    if backend == "torch":
        return backend
    installed = _numba_installed()
    if backend == "compiled" and not (installed and device.type == "cpu"):
        missing = (
            f"the trie is on {device}, and it runs on the CPU only"
            if installed
            else "numba is not installed; run: pip install 'genrec[fast]'"
        )
        raise ConfigError(f"backend='compiled': {missing}, or choose backend='torch'")
    return "compiled" if installed and device.type == "cpu" else "torch"


@functools.cache
def _numba_installed() -> bool:
    return importlib.util.find_spec("numba") is not None


def expand_beams(
    trie: PrefixTrie,
    level: int,
    log_probs: Tensor,
    nodes: Tensor,
    scores: Tensor,
    *,
    keep: int,
    excluded: Exclusions | None = None,
    floor: Tensor | None = None,
    renormalize: bool = False,
    logits: bool = False,
    backend: Backend = "auto",
) -> Step:
    """Extend the beams by one code and keep the best.

    Args:
        trie: the valid tuples.
        level: level of the code.
        log_probs: ``[B, W, K_level]``, of any floating type.
        nodes: int64 ``[B, W]``, nodes of depth ``level``, different in a row; -1 where dead.
        scores: float32 ``[B, W]``.
        keep: most beams kept per user; may exceed the children.
        excluded: items and filters of the users.
        floor: float32 ``[B]``; children below it are dropped, and only as many beams come back as
            the user with the most children above it needs, one at least.
        renormalize: score by log-softmax over the existing children.
        logits: whether ``log_probs`` are logits, of which the log-sum-exp is to be taken off.
        backend: which implementation; the items are the same, scores agree up to rounding.

    Raises:
        ConfigError: for log-probabilities of another shape, or a back end that cannot run here.
    """
    expected = (*nodes.shape, trie.codebook_sizes[level])
    if log_probs.shape != expected:
        raise ConfigError(
            f"log-probabilities of shape {tuple(log_probs.shape)} at level {level}: "
            f"expected {expected}; was the model trained with another SID vocabulary?"
        )
    if excluded is None:
        nothing = torch.empty(nodes.shape[0], 0, dtype=torch.int64, device=nodes.device)
        excluded = Exclusions(trie, nothing)
    keep = max(1, min(keep, trie.num_nodes[level + 1]))
    run = _compiled if chosen_backend(backend, trie.device) == "compiled" else _torch
    return run(trie, level, log_probs, nodes, scores, excluded, keep, floor, renormalize, logits)


def _compiled(
    trie: PrefixTrie,
    level: int,
    log_probs: Tensor,
    nodes: Tensor,
    scores: Tensor,
    excluded: Exclusions,
    keep: int,
    floor: Tensor | None,
    renormalize: bool,
    logits: bool,
) -> Step:
    from genrec.decoding.kernel import expand_rows

    batch, width = nodes.shape
    tokens, pointer, ties, item_starts = _level_arrays(trie, level)
    live = trie.live_nodes(level + 1)
    members = None if excluded.filter is None else excluded.filter.members
    if log_probs.dtype != torch.float32 or log_probs.requires_grad:
        log_probs = log_probs.detach().to(torch.float32)
    given = (
        _array(log_probs),
        _array(nodes),
        _array(scores),
        tokens,
        pointer,
        ties,
        _NO_BOOL if live is None else _array(live),
        _NO_WORDS if members is None else _array(members.words),
        _NO_COUNTS if members is None else _array(members.before),
        item_starts,
        _NO_NODES if excluded.empty else _array(excluded.dead_nodes(level + 1)),
        _NO_FLOAT if floor is None else _array(floor),
        renormalize,
        logits,
    )

    def run(keep: int, counting: bool) -> Step:
        beams = np.empty((3, batch, keep), dtype=np.int64)
        outputs = (
            beams[0],
            np.empty((batch, keep), dtype=np.float32),
            beams[1],
            beams[2],
            np.empty(batch, dtype=np.int64),
            np.empty(batch, dtype=np.float32),
            np.empty(batch, dtype=bool),
        )
        _in_threads(
            lambda start, stop: expand_rows(start, stop, *given, counting, *outputs),
            batch,
            log_probs.numel(),
        )
        return Step(*map(torch.from_numpy, outputs))

    # there are no more candidates than this; the buffer of the kernel follows the number kept
    keep = min(keep, max(1, width * trie.max_branch[level]))
    if floor is not None and batch:
        keep = min(keep, max(1, int(run(1, True).dropped.max())))
    return run(keep, False)


def _array(values: Tensor) -> np.ndarray:
    return values.contiguous().numpy()


def _level_arrays(trie: PrefixTrie, level: int) -> tuple[np.ndarray, ...]:
    """Codes, pointers, tie ranks and item starts of a level, for the kernel; made once."""
    known: dict[int, tuple[np.ndarray, ...]] = trie.level_arrays
    if level not in known:
        tokens = trie.tokens[level].numpy()
        last = level == trie.num_levels - 1
        known[level] = (
            tokens if tokens.dtype == np.uint8 else tokens.view(np.uint16),
            trie.pointers[level].numpy(),
            trie.leaf_tie.numpy() if last else np.empty(0, dtype=np.int32),
            trie.item_starts[level + 1].numpy(),
        )
    return known[level]


def _in_threads(work: Any, rows: int, size: int) -> None:
    """Call ``work(start, stop)`` for parts of the rows, side by side if they are large.

    Plain threads: the kernel holds no lock, every row is computed by one thread alone, and nothing
    is left behind that a fork could break.
    """
    parts = min(torch.get_num_threads(), rows, size // _SHARE)
    if parts < 2:
        work(0, rows)
        return
    bounds = [rows * i // parts for i in range(parts + 1)]
    failures: list[BaseException] = []

    def guarded(start: int, stop: int) -> None:
        try:
            work(start, stop)
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=guarded, args=pair) for pair in itertools.pairwise(bounds[1:])
    ]
    for thread in threads:
        thread.start()
    guarded(0, bounds[1])
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _torch(
    trie: PrefixTrie,
    level: int,
    log_probs: Tensor,
    nodes: Tensor,
    scores: Tensor,
    excluded: Exclusions,
    keep: int,
    floor: Tensor | None,
    renormalize: bool,
    logits: bool,
) -> Step:
    batch, beams = nodes.shape
    branch = trie.max_branch[level]
    width = beams * branch
    dead = None if excluded.empty else excluded.dead_nodes(level + 1)
    alive = nodes >= 0
    nodes = nodes.clamp_min(0)
    # a few users at a time on the CPU, so that the candidates stay in its cache
    rows = batch
    if nodes.device.type == "cpu":
        rows = max(1, _CACHED // max(1, width))
    found = []
    for start in range(0, max(1, batch), rows):
        part = slice(start, start + rows)
        here, ok, above = nodes[part], alive[part], scores[part]
        gains = log_probs[part].float().log_softmax(dim=2) if logits else log_probs[part]
        keys, children, lost = _expand(trie, level, gains, here, above, ok, renormalize)
        if excluded.filter is not None:
            allowed = excluded.filter.select(part).alive(level + 1, children)
            keys.masked_fill_(~allowed, DEAD)
        if dead is not None:
            _kill_excluded(keys, trie, dead[part], level, here, ok)
        wide = min(keep, max(1, width))
        if floor is not None:
            over = key_scores(keys) >= floor[part, None, None]
            reach = (over & (keys != DEAD)).sum(dim=(1, 2))
            wide = min(wide, max(1, int(reach.max())))
        best, columns = top_keys(keys.flatten(1), min(wide + 1, width))
        best = F.pad(best, (0, wide + 1 - best.shape[1]), value=DEAD)
        columns = F.pad(columns, (0, max(0, wide - columns.shape[1])))
        dropped = best[:, wide]
        if floor is not None:  # each user as if alone: what lies below the floor is dropped as well
            kept = reach.clamp_max(wide)[:, None]
            dropped = best.gather(1, kept)[:, 0]
            best = best.masked_fill(torch.arange(wide + 1, device=best.device) >= kept, DEAD)
        chosen = children.flatten(1).gather(1, columns[:, :wide])
        found.append((best[:, :wide], columns[:, :wide] // branch, chosen, dropped, lost))
    wide = max(best.shape[1] for best, *_ in found)
    keys_, parents, nodes_, dropped_, lost_ = zip(*found, strict=True)
    best, parent, chosen = (
        parts[0]
        if len(parts) == 1
        else torch.cat([F.pad(part, (0, wide - part.shape[1]), value=fill) for part in parts])
        for parts, fill in ((keys_, DEAD), (parents, 0), (nodes_, 0))
    )
    reached, leaked = key_scores(best), torch.cat(lost_)
    # a score above its parent's has a log-probability above 0
    rising = (reached > scores.gather(1, parent)).any(dim=1)
    return Step(
        nodes=chosen.masked_fill(best == DEAD, -1),
        scores=reached,
        parent=parent,
        code=trie.node_codes(level, chosen),
        dropped=torch.cat(dropped_),
        leaked=leaked,
        sound=~(rising | leaked.isnan()),
    )


def _expand(
    trie: PrefixTrie,
    level: int,
    log_probs: Tensor,
    nodes: Tensor,
    scores: Tensor,
    alive: Tensor,
    renormalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """All children of the beams, padded to the level's largest branch.

    Returns:
        Rank keys ``[B, W, b]`` (dead where there is no child), children's nodes ``[B, W, b]`` and
        the probability ``[B]`` that went to codes without a child.
    """
    pointer = trie.pointers[level]
    low = pointer[nodes].to(torch.int64)
    count = (pointer[nodes + 1] - low) * alive
    slots = torch.arange(trie.max_branch[level], device=nodes.device)
    absent = slots >= count[:, :, None]
    children = (low[:, :, None] + slots).clamp_max_(trie.num_nodes[level + 1] - 1)
    live = trie.live_nodes(level + 1)
    if live is not None:
        absent |= ~live[children]
    gains = log_probs.gather(2, trie.node_codes(level, children)).to(torch.float32)
    gains.masked_fill_(absent, -torch.inf)
    if renormalize:
        total = gains.logsumexp(dim=2)
        mass = total.exp()
        gains -= total.masked_fill(total == -torch.inf, 0.0)[:, :, None]
    else:
        mass = gains.clamp_min(_NEGLIGIBLE).exp_().sum(dim=2)
    lost = ((1.0 - mass).clamp_min(0.0) * scores.exp() * alive).sum(dim=1)
    last = level == trie.num_levels - 1
    ties = trie.leaf_tie[children].to(torch.int64) if last else node_ties(children)
    keys = rank_keys(gains.add_(scores[:, :, None]), ties)
    return keys.masked_fill_(absent, DEAD), children, lost


def _kill_excluded(
    keys: Tensor,
    trie: PrefixTrie,
    dead: Tensor,
    level: int,
    nodes: Tensor,
    alive: Tensor,
) -> None:
    """Mark the candidates without an allowed item as dead, in place.

    Found from the excluded side: each wholly excluded node (``dead``, int64 ``[B, E]``, -1 as
    padding) looks for its parent among the beams.
    """
    above = trie.parents(level, dead.clamp_min(0))
    beams, column = nodes.masked_fill(~alive, trie.num_nodes[level]).sort(dim=1)
    place = torch.searchsorted(beams, above).clamp_max_(beams.shape[1] - 1)
    hit = (beams.gather(1, place) == above) & (dead >= 0)
    slot = dead - trie.pointers[level][above]
    target = (column.gather(1, place) * keys.shape[2] + slot).masked_fill(~hit, 0)
    kill = torch.full_like(target, torch.iinfo(torch.int64).max).masked_fill_(hit, DEAD)
    keys.flatten(1).scatter_reduce_(1, target, kill, "amin")
