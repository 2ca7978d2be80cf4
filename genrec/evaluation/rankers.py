"""What can be evaluated: anything that ranks the catalog for a batch of histories.

A ranker answers a batch with a `SearchResult`: items best first, and behind them the groups of
items that share a score (`leaves`). Models, baselines and a user's own rankers share one protocol.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from genrec.decoding import Filter, PrefixTrie, SearchResult, default_beam_width
from genrec.decoding.exclusions import Exclusions, items_of_leaves
from genrec.errors import ConfigError
from genrec.evaluation.metrics import IntArray
from genrec.models import Recommender
from genrec.models.recommender import META_KEYS

BASELINES = ("popularity", "last-item")  # names that no run may have


@runtime_checkable
class Ranker(Protocol):
    """Ranks all items for each history of a batch.

    Attributes:
        name: shown in reports.
        has_tuples: whether leaves are semantic IDs, so that tuple-level metrics mean something.
        asks: what it reads of the event to be predicted where it is told: `time`, `action`, both
            or nothing.
    """

    name: str
    has_tuples: bool
    asks: frozenset[str]

    @property
    def filters_for(self) -> PrefixTrie | int:
        """What a `Filter` for this ranker is made of: its trie, or the number of items."""
        ...

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What all searches of a batch share, done once (a model encodes the histories)."""
        ...

    def search(
        self,
        batch: dict[str, Any],
        *,
        k: int,
        exclude: Tensor | None = None,
        filter: Filter | None = None,
    ) -> SearchResult:
        """The `k` best items per user, on any device.

        Args:
            batch: histories as `genrec.data` batches them (`items` int64 [B, S], `mask` bool [B, S]
                and what else the dataset has), or what `prepare` made of them.
            k: items to return.
            exclude: int64 [B, E], items that may not be recommended, -1 padded; or None.
            filter: the items that may be recommended, made for `filters_for`; or None.
        """
        ...

    def leaf_of(self, items: Tensor) -> Tensor:
        """The leaf of each item, int64, same shape."""
        ...

    def settings(self) -> dict[str, Any]:
        """What belongs beside the metrics: beam width, exactness, number of parameters."""
        ...


class Untrained:
    """What rankers share that learn nothing and look at every item."""

    has_tuples = False
    asks: frozenset[str] = frozenset()

    def settings(self) -> dict[str, Any]:
        """Nothing was trained and nothing is pruned."""
        return {"exact": True, "parameters": 0}

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Nothing to share."""
        return batch


class PopularityRanker(Untrained):
    """The same list for everyone: items by how often they occur.

    Items of equal count are real ties. Each distinct count is one leaf, so the metrics take the
    expectation over the order inside it; the items shown follow `tie_order`.

    Args:
        counts: int64 [N], occurrences of each item, usually in the training events.
        tie_order: int64 [N], a permutation rank, smaller first.
        name: shown in reports.
    """

    def __init__(self, counts: IntArray, tie_order: IntArray, *, name: str = "popularity") -> None:
        counts = np.asarray(counts, dtype=np.int64)
        if counts.ndim != 1 or counts.shape != np.shape(tie_order):
            raise ValueError(
                f"counts {counts.shape} and tie order {np.shape(tie_order)} must both be [items]"
            )
        self.name = name
        values, leaf = np.unique(-counts, return_inverse=True)
        self._trie = PrefixTrie.from_codes(leaf.reshape(-1, 1), [len(values)], tie_order)
        self._leaf_counts = torch.from_numpy(-values)

    @property
    def filters_for(self) -> PrefixTrie:
        """One level deep: a leaf per distinct count."""
        return self._trie

    def leaf_of(self, items: Tensor) -> Tensor:
        """Leaves are numbered by falling count."""
        return self._trie.item_leaf[items.cpu()].to(torch.int64)

    def search(
        self,
        batch: dict[str, Any],
        *,
        k: int,
        exclude: Tensor | None = None,
        filter: Filter | None = None,
    ) -> SearchResult:
        """See `Ranker.search`; costs the counts that the list reaches, never the catalog."""
        rows, trie = len(batch["items"]), self._trie
        exclude = None if exclude is None else exclude.cpu()
        excluded = Exclusions.from_items(trie, exclude, rows, filter)
        wanted = excluded.num_allowed.clamp_max(k)
        # Without a filter, the first `reach` items hold k that are not excluded.
        reach = min(trie.num_items, k + excluded.positions.shape[1])
        count = int(torch.searchsorted(trie.item_starts[-1], reach))
        while True:
            leaves = torch.arange(count).repeat(rows, 1)
            sizes = excluded.allowed_sizes(leaves)
            if count == trie.num_leaves or bool((sizes.sum(dim=1) >= wanted).all()):
                break
            count = min(2 * count, trie.num_leaves)
        leaf_scores = self._leaf_counts[:count].to(torch.float32).repeat(rows, 1)
        items, scores = items_of_leaves(excluded, leaves, leaf_scores, sizes, k)
        return SearchResult(
            items=items,
            scores=scores,
            leaves=leaves,
            leaf_scores=leaf_scores,
            leaf_sizes=sizes,
            certified=torch.ones(rows, dtype=torch.bool),
            best_dropped=torch.full((rows,), float("-inf")),
            leaked=torch.zeros(rows),
            evaluations=torch.zeros(rows, dtype=torch.int64),
        )


class ModelRanker:
    """A trained recommender with the way it is decoded.

    Args:
        model: a `genrec.models.Recommender`.
        trie: the prefix trie of its SID vocabulary, for heads that score codes.
        beam_width: tuples kept per step, for heads that search by beams; None is `max(50, 2 k)`.
        exact: widen the search of each user until it is certified.
        renormalize: for heads that search by beams: score by log-softmax over the codes that exist.
        name: shown in reports.

    Raises:
        ConfigError: if the model's head scores codes and there is no trie.
        ArtefactError: if the trie is not of the vocabulary the model was trained with.
    """

    def __init__(
        self,
        model: Recommender,
        trie: PrefixTrie | None = None,
        *,
        beam_width: int | None = 50,
        exact: bool = False,
        renormalize: bool = False,
        name: str = "model",
    ) -> None:
        self.model = model
        self.trie = trie if model.head.uses_trie else None
        self.beam_width = beam_width
        self.exact = exact
        self.renormalize = renormalize
        self.name = name
        self.has_tuples = model.head.uses_trie and not model.head.ranks_items
        reads = {"time": model.asks_when, "action": model.asks_which_action}
        self.asks = frozenset(field for field, does in reads.items() if does)
        if model.head.uses_trie and trie is None:
            raise ConfigError(f"{name}: this head scores codes; give the vocabulary's prefix trie")
        if self.trie is not None:
            model.check_trie(self.trie)

    def replace(self, **changes: Any) -> ModelRanker:
        """The same model decoded otherwise: `beam_width`, `exact`, `renormalize`, `name`."""
        other = copy.copy(self)
        for key, value in changes.items():
            if key not in ("beam_width", "exact", "renormalize", "name"):
                raise TypeError(f"{key!r} is not a decoding setting")
            setattr(other, key, value)
        return other

    @property
    def filters_for(self) -> PrefixTrie | int:
        """The trie, on the model's device, or the number of items where the head needs none."""
        if self.trie is None:
            return self.model.config.num_items
        self.trie = self.trie.to(self.model.device)
        return self.trie

    def leaf_of(self, items: Tensor) -> Tensor:
        """The item's semantic ID as a leaf of the trie; for heads that rank items, the item."""
        if self.trie is None or not self.has_tuples:
            return items
        leaves = self.trie.item_leaf
        return leaves[items.to(leaves.device)].to(torch.int64)

    def settings(self) -> dict[str, Any]:
        """Beam width (None for heads that score everything), exactness, scores, device, size."""
        beams = self.model.head.searches_by_beams
        return {
            "beam_width": self.beam_width if beams else None,
            "exact": self.exact or not beams,
            **({"scores": "renormalized" if self.renormalize else "masked"} if beams else {}),
            "device": self.model.device.type,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
        }

    @torch.inference_mode()
    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode the histories.

        Returns:
            `hidden`, float [B, D], the states from which the next items are predicted; `encoded`,
            what the head's search reads. Both on the model's device.
        """
        device = self.model.device
        inputs = {
            name: batch[name].to(device, non_blocking=True)
            for name in ("items", "mask", *META_KEYS)
            if name in batch
        }
        with _evaluating(self.model):
            encoded = self.model.encode(**inputs)
        hidden = encoded if isinstance(encoded, Tensor) else encoded.context.last
        return {"hidden": hidden, "encoded": encoded}

    @torch.inference_mode()
    def search(
        self,
        batch: dict[str, Any],
        *,
        k: int,
        exclude: Tensor | None = None,
        filter: Filter | None = None,
    ) -> SearchResult:
        """See `Ranker.search`; takes a batch or what `prepare` made of it."""
        encoded = batch["encoded"] if "encoded" in batch else self.prepare(batch)["encoded"]
        device = self.model.device
        if self.trie is not None:
            self.trie = self.trie.to(device)
        with _evaluating(self.model):
            return self.model.head.search(
                encoded,
                k=k,
                trie=self.trie,
                exclude=None if exclude is None else exclude.to(device),
                filter=filter,
                beam_width=self.beam_width or default_beam_width(k),
                exact=self.exact,
                renormalize=self.renormalize,
            )


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off inside the block, then as it was before."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
