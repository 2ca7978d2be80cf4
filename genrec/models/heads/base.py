"""The head interface: hidden states in, a loss or ranked items out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from genrec.decoding import Filter, PrefixTrie, SearchResult
from genrec.models.heads.dense_contrast import Seen
from genrec.models.item_encoders import ItemEncoder
from genrec.models.tables import ItemTables, share
from genrec.registry import registrar


class Head(nn.Module, ABC):
    """Turns a hidden state into scores of codes or items; it knows no backbone.

    Args:
        tables: item tables (codes of the targets, training counts).
        encoder: the item encoder, whose tables a head may share.
        d_model: width of the hidden states.

    Attributes:
        uses_trie: scores codes, so a search needs the prefix trie.
        searches_by_beams: a wider beam can change the list.
        ranks_items: needs the trie, but ranks items: the leaves of its results are item numbers
            and not tuples.
        avoids_seen: its loss is told, as `seen`, what else is in the row of each state.
        reads_tokens: reads one state per code of the next item, each after the codes before, and
            not one state per item. Such a head has `level_logits(level, hidden)`; see `TokenHead`.
    """

    tables: ItemTables
    encoder: ItemEncoder
    uses_trie: bool
    searches_by_beams = False
    ranks_items = False
    reads_tokens = False
    avoids_seen = False
    # Of what the loss draws; None draws from the process's own generator, for its own targets.
    draw_seed: int | None = None

    def __init__(self, *, tables: ItemTables, encoder: ItemEncoder, d_model: int) -> None:
        super().__init__()
        share(self, "tables", tables)
        share(self, "encoder", encoder)
        self.d_model = d_model

    def seed_draws(self, seed: int) -> None:
        """Let the next loss, and those of this head's parts, draw by `seed` alone.

        Then a loss draws for the targets of all processes what one process would draw for them
        together. All of them must be given the same seed and ask for the loss together.
        """
        for part in self.modules():
            if isinstance(part, Head):
                part.draw_seed = seed

    @abstractmethod
    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of hidden states `[M, D]` whose next items are `targets`, int64 `[M]`.

        A head that reads tokens is given `[M, L, D]`.
        """

    def unsampled_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss with nothing drawn, which orders items as the search does.

        `loss` itself, but for two kinds of heads. Where the loss draws items: the one over all of
        them that it stands for. Where what a target costs is not in the order of its score, as of
        a sum over codes of other than their log-probabilities: one that is. It is the mean of what
        single states cost. Contract tests compare it with the search; nothing is trained by it.
        """
        return self.loss(hidden, targets)

    def event_loss(
        self,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        actions: torch.Tensor | None,
        *,
        seen: Seen | None = None,
    ) -> torch.Tensor:
        """The loss where the actions of the targets' events, int64 `[M]`, may be known.

        `seen` is given to heads that avoid it.

        Raises:
            ConfigError: from heads that weigh actions, if they are not known.
        """
        return self.loss(hidden, targets)

    def mass(self, targets: torch.Tensor, actions: torch.Tensor | None) -> torch.Tensor:
        """What the mean of `event_loss` divides by, a scalar: the number of targets, or of weights.

        By it the means of several processes are put together.
        """
        return torch.tensor(float(len(targets)), device=targets.device)

    @abstractmethod
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
        """The best `k` items of each user.

        Args:
            hidden: float `[B, D]`, one state per user; for a head that reads tokens, the
                `StepDecoder` of the users.
            k: number of items.
            trie: valid codes; heads that score codes need it.
            exclude: int64 `[B, E]` items never returned, padded with -1.
            filter: the items that may be returned, for all users or per user; made for the trie,
                or for the number of items where a head needs no trie.
            beam_width: for heads that search by beams.
            exact: prove the result, at any cost.
            renormalize: for heads that search by beams: score by log-softmax over the codes that
                exist after a prefix instead of by the head's own log-probabilities.
        """


HEADS: dict[str, type[Head]] = {}
register = registrar(HEADS)
