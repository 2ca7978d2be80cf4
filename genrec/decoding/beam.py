"""Beam search over a prefix trie, vectorised over users, beams and children.

Scores are sums of log-probabilities, so no completion of a prefix scores above the prefix. Hence
the certificate: if the k-th best item found scores above every prefix ever pruned, the answer is
exact. It costs one more candidate per level.

The same fact makes the search exact by branch and bound: once k items are known, only prefixes that
score at least as high as the k-th can matter, and at most 1 / p of one depth do, where p is the
probability of that item, however many items there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genrec.decoding.codes import checked_count
from genrec.decoding.exclusions import Exclusions, items_of_leaves
from genrec.decoding.filters import Filter
from genrec.decoding.ranking import DEAD, key_scores
from genrec.decoding.result import SearchResult
from genrec.decoding.step import Backend, chosen_backend, extended
from genrec.decoding.trie import PrefixTrie
from genrec.errors import ConfigError, GenrecError

_BUDGET = 2**26  # candidates or log-probabilities of one level held at once
SLACK = 1e-4  # decoders may round otherwise for another batch; what a bound allows for it


class StepDecoder(Protocol):
    """What an autoregressive head hands to the search: the next code's log-probabilities.

    Log-probabilities are at most 0 and may be -inf; they may be of any floating type, scores are
    float32. The state is the decoder's own; users never mix. A decoder whose attribute
    ``returns_logits`` is true returns logits instead, and the search takes their log-sum-exp off,
    which the compiled back end does on the way.
    """

    def first(self) -> tuple[Tensor, Any]:
        """Log-probabilities ``[B, K_0]`` of the first code, and the state."""
        ...

    def next(self, state: Any, parent: Tensor, code: Tensor, level: int) -> tuple[Tensor, Any]:
        """Extend the beams by one code.

        Args:
            state: what the call before returned.
            parent: int64 ``[B, W]``, the column of each beam's parent in the previous beam (all
                0 at level 1, whose parent is the empty prefix).
            code: int64 ``[B, W]``, the code that extends the parent.
            level: the level to predict, 1 to L - 1.

        Returns:
            Log-probabilities ``[B, W, K_level]`` and the new state.
        """
        ...

    def select(self, rows: Tensor) -> StepDecoder:
        """The same decoder for the users ``rows`` (int64), from the start."""
        ...


def default_beam_width(k: int) -> int:
    """Beams kept per level for lists of `k` items where nobody asked for a number."""
    return max(50, 2 * k)


def beam_search(
    decoder: StepDecoder,
    trie: PrefixTrie,
    *,
    k: int,
    beam_width: int | Sequence[int],
    exclude: Tensor | None = None,
    filter: Filter | None = None,
    exact: bool = False,
    renormalize: bool = False,
    max_width: int | None = None,
    backend: Backend = "auto",
) -> SearchResult:
    """The ``k`` best items of every user under the decoder, among the items of the trie.

    Tuples are ranked by (score, tie rank of the tuple's first item), the items of a tuple by their
    tie order; between prefixes of one depth with equal scores a fixed pseudo-random order decides.
    If ``min(k, allowed items)`` items were not found, the search is repeated wider for the users
    concerned until they are.

    Args:
        decoder: log-probabilities of the next code, see `StepDecoder`.
        trie: the valid tuples, on the decoder's device.
        k: items wanted per user.
        beam_width: prefixes kept per level; may exceed the codebook and the number of nodes. Or
            one number for each level but the last, of which ``k`` are kept.
        exclude: int64 ``[B, E]`` items never returned, padded with -1.
        filter: the items that may be returned, for all users or per user; excluded ones may not.
        exact: search again for the users without a certificate, keeping every prefix that scores at
            least as high as the user's k-th item, which proves the answer.
        renormalize: score by log-softmax over the valid children of a prefix instead of by the
            decoder's log-probabilities.
        max_width: most prefixes per level that ``exact`` may keep, by default all; users who need
            more stay without a certificate.
        backend: ``"torch"``, ``"torch-only"`` (what ``"torch"`` does on devices other than the CPU,
            where numpy helps it), ``"compiled"`` (CPU only, needs numba), ``"triton"`` (CUDA), or
            ``"auto"``: a compiled one where it can run. All rank alike, ties included;
            renormalised scores and those of a decoder that returns logits may differ in the last
            digits.

    Raises:
        ConfigError: for a ``k`` or width that is no integer of at least 1, malformed exclusions, a
            filter of another trie or batch, log-probabilities of another shape than the trie's
            levels, or a back end that cannot run here.
        GenrecError: if the decoder returns NaN or a log-probability above 0.
    """
    widths = checked_widths(trie, k, beam_width, max_width)
    k = checked_count(k, "k")
    chosen_backend(backend, trie.device)
    first = decoder.first()
    batch = first[0].shape[0]
    excluded = Exclusions.from_items(trie, exclude, batch, filter)
    wanted = excluded.num_allowed.clamp_max(k)
    per_beam = max(trie.codebook_sizes)
    inner = trie.num_nodes[1:-1]

    def search(rows: Tensor, widths: Sequence[int], floor: Tensor | None = None) -> SearchResult:
        if len(rows) == batch and floor is None:
            start = decoder, *first
        else:
            some = decoder.select(rows)
            start = some, *some.first()
        return _search(*start, trie, excluded.select(rows), k, widths, renormalize, floor, backend)

    def run(rows: Tensor, widths: Sequence[int]) -> SearchResult:
        """Search for some users, as many at once as fit in memory."""
        widest = max((min(pair) for pair in zip(widths, inner, strict=True)), default=1)
        parts = rows.split(max(1, _BUDGET // (widest * per_beam)))
        return SearchResult.concatenate([search(part, widths) for part in parts])

    result = run(torch.arange(batch, device=trie.device), widths)
    wide = widths
    while any(width < nodes for width, nodes in zip(wide, inner, strict=True)):
        rows = ((result.items >= 0).sum(dim=1) < wanted).nonzero().flatten()
        if len(rows) == 0:
            break
        wide = [2 * width for width in wide]
        result.replace(rows, run(rows, wide))
    most = max(inner, default=1) if max_width is None else max_width
    narrow = any(w < min(most, nodes) for w, nodes in zip(widths, inner, strict=True))
    slack = SLACK
    while exact and narrow:
        again = ~result.certified
        if max_width is not None and slack > SLACK:  # nothing more to gain but missing items
            again &= (result.items >= 0).sum(dim=1) < wanted
        rows = again.nonzero().flatten()
        if len(rows) == 0:
            break
        last = (wanted[rows] - 1)[:, None]
        floor = result.scores[rows].gather(1, last)[:, 0] - slack
        for part in _alike(floor, most, max(1, _BUDGET // per_beam)):
            some = rows[part]
            result.replace(some, search(some, [most] * len(inner), floor[part]))
        slack *= 4
    return result


def checked_widths(
    trie: PrefixTrie, k: int, beam_width: int | Sequence[int], max_width: int | None = None
) -> list[int]:
    """The width of each level but the last.

    Raises:
        ConfigError: for what is no integer of at least 1, or widths of other levels.
    """
    checked_count(k, "k")
    if max_width is not None:
        checked_count(max_width, "max_width")
    inner = trie.num_levels - 1
    given: Any = beam_width
    if np.ndim(given) == 0:
        return [checked_count(given, "beam_width")] * inner
    widths = [checked_count(width, "beam_width") for width in given]
    if len(widths) != inner:
        raise ConfigError(
            f"beam_width={widths}: expected one width for each of the {inner} levels before the "
            "last"
        )
    return widths


def _alike(floor: Tensor, most: int, room: int) -> list[Tensor]:
    """Users in groups that may keep about equally many prefixes and fit in memory together.

    At most ``exp(-floor)`` prefixes of one depth score at least ``floor``.

    Args:
        floor: float32 ``[n]``.
        most: most prefixes that anyone may keep.
        room: most prefixes of a whole group.
    """
    order = floor.argsort(descending=True)
    need = (-floor[order]).exp().clamp_max(most).ceil().tolist()
    groups, start = [], 0
    for i in range(1, len(need) + 1):
        full = i == len(need) or need[i] > 2 * need[start] or (i + 1 - start) * need[i] > room
        if full:
            groups.append(order[start:i])
            start = i
    return groups


def _search(
    decoder: StepDecoder,
    log_probs: Tensor,
    state: Any,
    trie: PrefixTrie,
    excluded: Exclusions,
    k: int,
    widths: Sequence[int],
    renormalize: bool,
    floor: Tensor | None,
    backend: Backend,
) -> SearchResult:
    """One pass over the levels, for all users of the decoder.

    At most ``widths`` prefixes are kept; with a ``floor`` (float32 ``[B]``) as many as the user
    with the most prefixes of at least this score needs.
    """
    batch, device = log_probs.shape[0], trie.device
    log_probs = log_probs[:, None]
    nodes = parent = code = torch.zeros(batch, 1, dtype=torch.int64, device=device)
    scores = torch.zeros(batch, 1, device=device)
    pruned = torch.full((batch,), DEAD, dtype=torch.int64, device=device)
    leaked = torch.zeros(batch, device=device)
    sound = torch.ones(batch, dtype=torch.bool, device=device)
    evaluations = torch.zeros(batch, dtype=torch.int64, device=device)
    for level in range(trie.num_levels):
        if level > 0:
            log_probs, state = decoder.next(state, parent, code, level)
        evaluations += (nodes >= 0).sum(dim=1)
        last = level == trie.num_levels - 1
        step = extended(
            trie,
            level,
            log_probs,
            nodes,
            scores,
            keep=k if last else widths[level],
            excluded=excluded,
            floor=None if last else floor,
            renormalize=renormalize,
            logits=getattr(decoder, "returns_logits", False),
            backend=backend,
        )
        nodes, scores, parent, code = step.nodes, step.scores, step.parent, step.code
        leaked += step.leaked
        sound &= step.sound
        if not last:
            # a tuple that ranks below the k-th is no pruned prefix: the last level drops nothing
            pruned = torch.maximum(pruned, step.dropped)
    if not bool(sound.all()):
        row = int((~sound).nonzero()[0])
        raise GenrecError(
            f"the decoder returned NaN or a log-probability above 0 for row {row} of the batch: "
            "the head must return log-probabilities (log_softmax)"
        )
    return finished(trie, excluded, k, nodes, scores, pruned, leaked, evaluations)


def finished(
    trie: PrefixTrie,
    excluded: Exclusions,
    k: int,
    nodes: Tensor,
    scores: Tensor,
    pruned: Tensor,
    leaked: Tensor,
    evaluations: Tensor,
) -> SearchResult:
    """Turn ranked leaves into items and write the certificate."""
    leaves = F.pad(nodes, (0, k - nodes.shape[1]), value=-1)
    scores = F.pad(scores, (0, k - scores.shape[1]), value=-torch.inf)
    sizes = excluded.allowed_sizes(leaves)
    items, item_scores = items_of_leaves(excluded, leaves, scores, sizes, k)
    best_dropped = key_scores(pruned)
    proven = (items[:, -1] >= 0) & (item_scores[:, -1] > best_dropped)
    everything = (items >= 0).sum(dim=1) == excluded.num_allowed
    return SearchResult(
        items=items,
        scores=item_scores,
        leaves=leaves,
        leaf_scores=scores,
        leaf_sizes=sizes,
        certified=proven | everything | (pruned == DEAD),
        best_dropped=best_dropped,
        leaked=leaked,
        evaluations=evaluations,
    )
