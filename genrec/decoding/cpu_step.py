"""One step of a search on the CPU where nothing is compiled: torch scores, numpy ranks.

Torch scores all candidates in one of three ways (`genrec.decoding.candidates`). Floats then choose
the few that can be among the best. Only these get rank keys, which decide ties, and are asked for
filters and exclusions; if they turn out too few, more are taken. They are so few that calls cost
more than work, and calls of numpy less than those of torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.decoding.candidates import ABSENT, Candidates, candidates_of
from genrec.decoding.expansion import Expansion, Step
from genrec.decoding.ranking import DEAD

_CACHED = 2**20  # candidates scored at once
_MOST = 2**22  # candidates that get keys at once
_GROUPS = 4  # groups per candidate wanted: then a sixth too many are taken
_LANES = 32  # torch takes maxima over so many columns side by side, others one by one
_DEVIATIONS = 3.5  # by which a filter may refuse more of those taken than on average
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
    leaked: np.ndarray
    everything: bool


def cpu_step(given: Expansion) -> Step:
    """The best children of every user's beams."""
    floor, keep = given.floor, given.keep
    batch, beams = given.nodes.shape
    candidates = candidates_of(given)
    dead = None
    if not given.excluded.empty:
        dead = given.excluded.dead_nodes(given.level + 1).sort(dim=1).values
    wanted = _wanted(given)
    while True:
        if wanted >= candidates.count and batch > 1 and batch * candidates.count > _MOST:
            return _in_halves(given)
        taken = _taken(candidates, given, wanted)
        beam, child = candidates.find(taken.cells)
        keys = _keys(given, candidates, taken, beam, child, dead)
        count = keys.shape[1]
        place = torch.topk(torch.from_numpy(keys), min(keep + 1, count), dim=1).indices.numpy()
        place += np.arange(0, batch * count, count)[:, None]
        best, scores = keys.take(place), taken.values.take(place)
        if floor is not None:
            reach = ((scores >= floor.numpy()[:, None]) & (best != DEAD)).sum(axis=1)
            reach = reach.clip(max=keep)[:, None]
            width = best.shape[1] + 1
            best, scores = _wide(best, width, DEAD), _wide(scores, width, -np.inf)
            dropped, last = (np.take_along_axis(of, reach, axis=1)[:, 0] for of in (best, scores))
        elif count > keep:
            dropped, last = best[:, keep], scores[:, keep]
        else:
            dropped, last = np.full(batch, DEAD), np.full(batch, -np.inf, dtype=np.float32)
        if taken.everything or _enough(candidates, last, taken.least):
            break
        more = floor is None and bool((taken.least > ABSENT).all())
        wanted = 4 * wanted if more else candidates.count
    if floor is not None:  # each user as if alone: what lies below the floor is dropped as well
        keep = max(1, int(reach.max()))
        below = np.arange(best.shape[1]) >= reach
        best[below], scores[below] = DEAD, -np.inf
    place, alive, scores = place[:, :keep], best[:, :keep] != DEAD, scores[:, :keep]
    above, nodes = beam.take(place), child.take(place)
    # a score above its parent's has a log-probability above 0
    rising = (scores > given.scores.numpy().reshape(-1).take(above)).any(axis=1)
    parent = (above - np.arange(0, batch * beams, beams)[:, None]) * alive
    code = candidates.codes(taken.cells.take(place), nodes)
    columns = (np.where(alive, nodes, -1), scores, parent, code)
    wide = [_wide(of, keep, fill) for of, fill in zip(columns, (-1, -np.inf, 0, 0), strict=True)]
    made = [torch.from_numpy(column) for column in wide]
    return Step(
        nodes=made[0],
        scores=made[1],
        parent=made[2],
        code=made[3],
        dropped=torch.from_numpy(dropped.copy()),
        leaked=torch.from_numpy(taken.leaked),
        sound=torch.from_numpy(~(rising | np.isnan(taken.leaked))),
    )


def _in_halves(given: Expansion) -> Step:
    """The users in two parts, one after the other: all their candidates would take much memory."""
    middle = len(given.nodes) // 2
    parts = []
    for part in (slice(None, middle), slice(middle, None)):
        some = replace(
            given,
            log_probs=given.log_probs[part],
            nodes=given.nodes[part],
            scores=given.scores[part],
            excluded=given.excluded.select(part),
            floor=None if given.floor is None else given.floor[part],
        )
        parts.append(vars(cpu_step(some)))
    width = max(step["nodes"].shape[1] for step in parts)
    fills = {"nodes": -1, "scores": -torch.inf, "parent": 0, "code": 0}
    for step in parts:
        for name, fill in fills.items():
            step[name] = F.pad(step[name], (0, width - step[name].shape[1]), value=fill)
    return Step(**{name: torch.cat([step[name] for step in parts]) for name in parts[0]})


def _wide(values: np.ndarray, width: int, fill: float) -> np.ndarray:
    """``values`` with ``width`` columns at least."""
    missing = width - values.shape[1]
    return values if missing <= 0 else np.pad(values, ((0, 0), (0, missing)), constant_values=fill)


def _wanted(given: Expansion) -> int:
    """How many of the best candidates are taken, so that with a filter enough are left."""
    filter, trie = given.excluded.filter, given.trie
    wanted = given.keep + 1
    if filter is None or len(filter) == 0:
        return wanted
    items = trie.num_positions / trie.num_nodes[given.level + 1]  # of a node
    share = float(filter.num_allowed.min()) / trie.num_positions
    alive = max(1.0 - (1.0 - share) ** items, 1e-6)
    # of n candidates n * alive are left on average, with a deviation of sqrt(n * alive * gone)
    spread = _DEVIATIONS * math.sqrt(1.0 - alive)
    root = (spread + math.sqrt(spread**2 + 4.0 * wanted)) / 2.0
    return math.ceil(root**2 / alive)


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
    lost = np.concatenate(leaked)
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
    groups = -(-_GROUPS * wanted // _LANES) * _LANES
    size = count // groups
    if floor is not None:
        limit = torch.where(scores >= floor[:, None], -torch.inf, scores).amax(dim=1).numpy()
    elif size < 2:
        return np.full(rows, ABSENT, dtype=np.float32)
    else:
        maxima = scores[:, : groups * size].unflatten(1, (size, groups)).amax(dim=1).numpy()
        limit = np.partition(maxima, groups - wanted, axis=1)[:, groups - wanted]
    return np.fmax(limit, np.float32(ABSENT))  # of NaN and a number the number


def _enough(candidates: Candidates, last: np.ndarray, least: np.ndarray) -> bool:
    """Whether nothing that was not taken can stand before the last one kept, of score ``last``."""
    if (last <= ABSENT).any() and candidates.impossible():
        return False  # such a score may stand for a child, or for none
    return bool(((last >= least) | (least <= ABSENT)).all())


def _keys(
    given: Expansion,
    candidates: Candidates,
    taken: _Taken,
    beam: np.ndarray,
    child: np.ndarray,
    dead: Tensor | None,
) -> np.ndarray:
    """`genrec.decoding.ranking.rank_keys` of the candidates taken, int64 ``[B, m]``.

    Those that may not be shown, or do not exist, are dead, and their scores -inf.
    """
    filter = given.excluded.filter
    bits = (taken.values + np.float32(0.0)).view(np.int32)
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    ties = given.trie.leaf_tie.numpy().take(child) if given.last else child * _MIX
    keys: np.ndarray = (order << 32) | (~ties.astype(np.int64, copy=False) & 0xFFFFFFFF)
    # what scores above `ABSENT` exists; the others have to be asked
    gone = ~(candidates.exists(taken.cells, beam, child) if taken.everything else taken.real)
    if filter is not None:
        gone |= ~filter.array_alive(given.level + 1, child)
    if dead is not None and dead.shape[1]:
        nodes = torch.from_numpy(child)
        place = torch.searchsorted(dead, nodes).clamp_max_(dead.shape[1] - 1)
        gone |= (dead.gather(1, place) == nodes).numpy()
    keys[gone] = DEAD
    taken.values[gone] = -np.inf
    return keys
