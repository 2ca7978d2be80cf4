"""Codes propose, a dense score decides, and items nobody has seen are always asked (LIGER)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from genrec.decoding import Filter, PrefixTrie, SearchResult, rank_candidates
from genrec.decoding.exclusions import Exclusions
from genrec.errors import ConfigError
from genrec.models.heads.base import HEADS, Head, register
from genrec.models.heads.dense import DenseHead
from genrec.models.heads.dense_contrast import Seen
from genrec.models.item_encoders import ItemEncoder
from genrec.models.registry import build_part
from genrec.models.tables import ItemTables
from genrec.processes import gathered

PARTS: Mapping[str, Mapping[str, Any]] = {
    "codes": {"type": "autoregressive"},
    "items": {"type": "dense", "similarity": "cosine", "temperature": 0.07},
}


@register("liger")
class LigerHead(Head):
    """The sum of a head of codes and a dense head, searched by both (Yang et al. 2024).

    The loss is the sum of the parts' losses. A search lets the head of codes propose as many items
    as the beam is wide, adds all cold items (those without an event in training, which a model of
    codes gives too little probability to be found), and ranks this union by the dense score alone.

    The union is not the catalogue: an item outside it may score above all of it, and nothing
    bounds by how much. So a list is certified only where the union holds every allowed item.
    `exact=True` ranks all items by the dense score, whatever the codes say: then the list is the
    dense head's, proven by brute force.

    Args:
        tables: item tables with codes and training counts.
        encoder: the item encoder.
        d_model: width of the hidden states.
        parts: `codes`, a head that ranks codes (`autoregressive`, `parallel`, `tokens`), and
            `items`, a `dense` head, each with its options. To say anything of cold items the
            vectors of `items` must come from content: an item encoder with a part that reads
            vectors, or `items: content`. Its `action_weights` weigh its own loss alone.
        weight: of the dense part's loss.
        cold: whether the cold items join.

    Cost of a search beside that of the codes: `D` multiply-adds for each of the beam's items and
    each cold item, for `exact` for each item of the catalogue.
    """

    uses_trie = True
    searches_by_beams = True
    ranks_items = True

    def __init__(
        self,
        *,
        tables: ItemTables,
        encoder: ItemEncoder,
        d_model: int,
        parts: Mapping[str, Mapping[str, Any]] = PARTS,
        weight: float = 1.0,
        cold: bool = True,
    ) -> None:
        super().__init__(tables=tables, encoder=encoder, d_model=d_model)
        if set(parts) != set(PARTS):
            raise ConfigError(
                f"head 'liger': parts={', '.join(parts) or 'none'}; expected codes and items"
            )
        if weight < 0:
            raise ConfigError(f"head 'liger': weight={weight}; expected 0 or more")
        given = {"tables": tables, "encoder": encoder, "d_model": d_model}
        self.codes = build_part("head 'liger': part codes", code_heads(), parts["codes"], **given)
        self.items: DenseHead = build_part(
            "head 'liger': part items", {"dense": DenseHead}, parts["items"], **given
        )
        self.reads_tokens = self.codes.reads_tokens
        self.weight, self.cold = weight, cold
        self.avoids_seen = self.items.avoids_seen

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The codes' loss plus `weight` times the dense one, on the state before the first code."""
        return self.event_loss(hidden, targets, None)

    def event_loss(
        self,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        actions: torch.Tensor | None,
        *,
        seen: Seen | None = None,
    ) -> torch.Tensor:
        """As `loss`; where the dense part weighs actions, the codes count all the same."""
        states = hidden[:, 0] if self.reads_tokens else hidden
        dense = self.items.event_loss(states, targets, actions, seen=seen)
        if self.items.action_weights is not None and self.draw_seed is not None:
            # A trainer puts the means of several processes together by numbers of targets, and
            # this one is a mean by weights.
            own = torch.stack([self.items.mass(targets, actions), self.mass(targets, actions)])
            weights, count = gathered(own)[0].view(-1, 2).sum(0)
            dense = dense * (own[0] / own[1]) * count / weights.clamp_min(1e-9)
        return self.codes.loss(hidden, targets) + self.weight * dense

    def level_logits(self, level: int, hidden: torch.Tensor) -> torch.Tensor:
        """Those of the part `codes`."""
        if not self.codes.reads_tokens:
            raise ConfigError("head 'liger': only the part `tokens` reads a state per code")
        part: Any = self.codes
        logits: torch.Tensor = part.level_logits(level, hidden)
        return logits

    def search(
        self,
        hidden: Any,
        *,
        k: int,
        trie: PrefixTrie | None = None,
        exclude: torch.Tensor | None = None,
        filter: Filter | None = None,
        beam_width: int = 50,
        exact: bool = False,
        renormalize: bool = False,
    ) -> SearchResult:
        """The best `k` by dense score of the items proposed and the cold ones, or of all.

        `best_dropped` is infinite where the list is not certified. `renormalize` acts on what the
        codes propose.
        """
        if trie is None:
            raise ConfigError("head 'liger': search needs the prefix trie of the vocabulary")
        states = hidden.last if self.reads_tokens else hidden
        known = min(self.tables.num_items, trie.num_items)
        cold = self.tables.counts[:known] == 0
        shared = torch.ones_like(cold) if exact else cold & self.cold
        excluded = Exclusions.from_items(trie, exclude, len(states), filter)
        asked = shared.nonzero().flatten()
        items = asked.expand(len(states), -1).masked_fill(~allowed(asked, excluded), -1)
        scores = self.items.pair_scores(states, asked)
        leaked = torch.zeros(len(states), device=states.device)
        spent = torch.zeros(len(states), dtype=torch.int64, device=states.device)
        if not exact:
            proposed = self.codes.search(
                hidden,
                k=max(k, beam_width),
                trie=trie,
                exclude=exclude,
                filter=filter,
                beam_width=beam_width,
                renormalize=renormalize,
            )
            # An item is asked once, and an item the model does not know has no dense score.
            out = F.pad(shared, (0, trie.num_items - known), value=True)
            own = proposed.items.masked_fill(out[proposed.items.clamp_min(0)], -1)
            scores = torch.cat([scores, self.items.pair_scores(states, own.clamp_min(0))], 1)
            items = torch.cat([items, own], 1)
            leaked, spent = proposed.leaked, proposed.evaluations
        result = rank_candidates(items, scores, k=k, tie_order=self.tables.tie_order)
        count = (items >= 0).sum(1)
        proven = (
            torch.ones_like(count, dtype=torch.bool) if exact else count >= excluded.num_allowed
        )
        result.certified = proven
        result.best_dropped = torch.where(proven, -torch.inf, torch.inf)
        result.leaked, result.evaluations = leaked, spent + count
        return result


def allowed(items: torch.Tensor, excluded: Exclusions) -> torch.Tensor:
    """Which of the items `[n]` each user may be shown, bool `[B, n]`."""
    trie, users = excluded.trie, len(excluded.positions)
    places = trie.item_position[items].to(torch.int64)
    inside = places >= 0
    places = places.clamp_min(0).expand(users, -1).contiguous()
    kept = inside.expand(users, -1)
    if excluded.members is not None:
        kept = kept & excluded.members.contains(places)
    # Excluded positions are sorted, so a place is among them where it would be put.
    spot = torch.searchsorted(excluded.positions, places)
    last = F.pad(excluded.positions, (0, 1), value=trie.num_positions)
    return kept & (last.gather(1, spot) != places)


def code_heads() -> dict[str, type[Head]]:
    """The registered heads that rank codes, which can propose items."""
    return {
        name: head
        for name, head in HEADS.items()
        if getattr(head, "uses_trie", False) and not head.ranks_items
    }
