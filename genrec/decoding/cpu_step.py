"""One step of a search on the CPU where nothing is compiled: torch scores, numpy ranks.

Torch scores all candidates in one of three ways (`genrec.decoding.candidates`). Floats then choose
the few that can be among the best. Only these get rank keys, which decide ties, and are asked for
filters and exclusions; if they turn out too few, more are taken. They are so few that calls cost
more than work, and calls of numpy less than those of torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.candidates import ABSENT, Candidates, candidates_of
from genrec.decoding.expansion import Expansion, Step
from genrec.decoding.ranking import DEAD

_CACHED = 2**18  # candidates scored at once
_GROUPS = 4  # groups per candidate wanted: then a sixth too many are taken
_MARGIN = 1.3  # how many more candidates than needed are taken beside a filter
_MIX = np.int64(0x9E3779B1)  # of `genrec.decoding.ranking.node_ties`


@dataclass
class _Taken:
    """Candidates that include the best ones, ``m`` per user at most.

    Attributes:
        cells: int64 ``[B, m]``, their places among the candidates of all users.
        values: float32 ``[B, m]``, their scores.
        real: bool ``[B, m]``, false for padding.
        least: float32 ``[B]``, all others score less; `ABSENT` if no other exists.
        leaked: float32 ``[B]``, see `Step`.
        everything: whether these are all, existing or not.
    """

    cells: np.ndarray
    values: np.ndarray
    real: np.ndarray
    least: np.ndarray
    leaked: Tensor
    everything: bool


def cpu_step(given: Expansion) -> Step:
    """The best children of every user's beams."""
    trie, floor, keep = given.trie, given.floor, given.keep
    batch, beams = given.nodes.shape
    candidates = candidates_of(given)
    dead = None
    if not given.excluded.empty:
        dead = given.excluded.dead_nodes(given.level + 1).sort(dim=1).values
    wanted = _wanted(given)
    rows = np.arange(batch)[:, None]
    while True:
        taken = _taken(candidates, given, wanted)
        beam, child = candidates.find(taken.cells)
        keys = _keys(given, candidates, taken, beam, child, dead)
        place = torch.topk(torch.from_numpy(keys), min(keep + 1, keys.shape[1]), dim=1).indices
        flat = place.numpy() + rows * keys.shape[1]
        best = keys.take(flat)
        scores = np.where(best == DEAD, np.float32(-np.inf), taken.values.take(flat))
        if floor is None:
            reach = np.full(batch, min(keep, best.shape[1]))
        else:
            over = (scores >= floor.numpy()[:, None]) & (best != DEAD)
            reach = over.sum(axis=1).clip(max=keep)
        edge = np.minimum(reach, best.shape[1] - 1)[:, None] + rows * best.shape[1]
        inside = reach < best.shape[1]
        last = np.where(inside, scores.take(edge)[:, 0], -np.inf)
        if taken.everything or _enough(candidates, last, taken.least):
            break
        more = floor is None and bool((taken.least > ABSENT).all())
        wanted = 4 * wanted if more else candidates.count
    dropped = np.where(inside, best.take(edge)[:, 0], DEAD)
    if floor is not None:  # each user as if alone: what lies below the floor is dropped as well
        best[np.arange(best.shape[1]) >= reach[:, None]] = DEAD
        keep = max(1, int(reach.max()))
    width = min(keep, best.shape[1])
    flat, alive = flat[:, :width], best[:, :width] != DEAD
    found, above = np.where(alive, scores[:, :width], np.float32(-np.inf)), beam.take(flat)
    # a score above its parent's has a log-probability above 0
    rising = (found > given.scores.numpy().reshape(-1).take(above)).any(axis=1)
    nodes = child.take(flat)
    columns = (
        np.where(alive, nodes, -1),
        np.where(alive, above - rows * beams, 0),
        trie.node_codes(given.level, torch.from_numpy(nodes)).numpy(),
    )
    fills = (-1, 0, 0)
    wide = [_wide(column, keep, fill) for column, fill in zip(columns, fills, strict=True)]
    return Step(
        nodes=wide[0],
        scores=_wide(found, keep, -np.inf),
        parent=wide[1],
        code=wide[2],
        dropped=torch.from_numpy(dropped),
        leaked=taken.leaked,
        sound=torch.from_numpy(~rising) & ~taken.leaked.isnan(),
    )


def _wide(values: np.ndarray, keep: int, fill: float) -> Tensor:
    """``values`` with ``keep`` columns."""
    if values.shape[1] < keep:
        values = np.pad(values, ((0, 0), (0, keep - values.shape[1])), constant_values=fill)
    return torch.from_numpy(values)


def _wanted(given: Expansion) -> int:
    """How many of the best candidates are taken, so that with a filter enough are left."""
    filter, trie = given.excluded.filter, given.trie
    wanted = given.keep + 1
    if filter is None or len(filter) == 0:
        return wanted
    items = trie.num_positions / trie.num_nodes[given.level + 1]  # of a node
    share = float(filter.num_allowed.min()) / trie.num_positions
    alive = 1.0 - (1.0 - share) ** items
    return int(_MARGIN * wanted / max(alive, 1e-6)) + 8


def _taken(candidates: Candidates, given: Expansion, wanted: int) -> _Taken:
    """The best ``wanted`` candidates, and perhaps some more."""
    batch, count = len(given.nodes), candidates.count
    everything = wanted >= count
    rows = max(1, _CACHED // max(1, count))  # so many users that the candidates stay in the cache
    picked, values, least, leaked = [], [], [], []
    for start in range(0, max(1, batch), rows):
        part = slice(start, start + rows)
        scores, lost = candidates.scored(part)
        leaked.append(lost)
        array = scores.numpy()
        if everything:
            values.append(array)
            continue
        floor = None if given.floor is None else given.floor[part]
        limit = _limit(scores, wanted, floor)
        flat = np.flatnonzero(array >= limit[:, None])
        values.append(array.reshape(-1)[flat])
        picked.append(flat + start * count)
        least.append(limit)
    lost = leaked[0] if len(leaked) == 1 else torch.cat(leaked)
    if everything:
        cells = np.arange(batch * count).reshape(batch, count)
        real = np.ones(cells.shape, dtype=bool)
        nothing = np.full(batch, ABSENT, dtype=np.float32)
        return _Taken(cells, np.concatenate(values), real, nothing, lost, True)
    joined = np.concatenate(picked)
    row = joined // count
    sizes = np.bincount(row, minlength=batch)
    width = max(1, int(sizes.max(initial=0)))
    place = np.arange(len(joined)) + (np.arange(batch) * width - (np.cumsum(sizes) - sizes))[row]
    chosen = np.zeros(batch * width, dtype=np.int64)
    chosen[place] = joined
    found = np.full(batch * width, -np.inf, dtype=np.float32)
    found[place] = np.concatenate(values)
    real = np.arange(width) < sizes[:, None]
    shape = (batch, width)
    return _Taken(
        chosen.reshape(shape), found.reshape(shape), real, np.concatenate(least), lost, False
    )


def _limit(scores: Tensor, wanted: int, floor: Tensor | None) -> np.ndarray:
    """A score, ``[b]``, that the best ``wanted`` candidates reach, `ABSENT` at least.

    Of groups of candidates the ``wanted`` best maxima are that many candidates. With a floor: the
    best candidate below it.
    """
    rows, count = scores.shape
    size = count // (_GROUPS * wanted)
    if floor is not None:
        limit = torch.where(scores >= floor[:, None], -torch.inf, scores).amax(dim=1).numpy()
    elif size < 2:
        return np.full(rows, ABSENT, dtype=np.float32)
    else:
        groups = count // size
        maxima = scores[:, : groups * size].unflatten(1, (size, groups)).amax(dim=1)
        limit = torch.topk(maxima, wanted, dim=1, sorted=False).values.numpy().min(axis=1)
    return np.fmax(limit, np.float32(ABSENT))  # of NaN and a number the number


def _enough(candidates: Candidates, last: np.ndarray, least: np.ndarray) -> bool:
    """Whether nothing that was not taken can stand before the last one kept, of score ``last``."""
    if (last <= ABSENT).any() and candidates.impossible():
        return False  # -inf may stand for a child, or for none
    return bool(((last >= least) | (least <= ABSENT)).all())


def _keys(
    given: Expansion,
    candidates: Candidates,
    taken: _Taken,
    beam: np.ndarray,
    child: np.ndarray,
    dead: Tensor | None,
) -> np.ndarray:
    """`genrec.decoding.ranking.rank_keys` of the candidates taken, int64 ``[B, m]``."""
    filter = given.excluded.filter
    bits = (taken.values + np.float32(0.0)).view(np.int32)
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    ties = given.trie.leaf_tie.numpy().take(child) if given.last else child * _MIX
    keys: np.ndarray = (order << 32) | (~ties.astype(np.int64, copy=False) & 0xFFFFFFFF)
    # what scores above `ABSENT` exists; the others have to be asked
    gone = ~(candidates.exists(taken.cells, beam, child) if taken.everything else taken.real)
    if filter is not None:
        gone |= ~filter.alive(given.level + 1, torch.from_numpy(child)).numpy()
    if dead is not None and dead.shape[1]:
        nodes = torch.from_numpy(child)
        place = torch.searchsorted(dead, nodes).clamp_max_(dead.shape[1] - 1)
        gone |= (dead.gather(1, place) == nodes).numpy()
    keys[gone] = DEAD
    return keys
