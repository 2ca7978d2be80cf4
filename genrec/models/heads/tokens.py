"""A softmax over the codes of each level, on the state of the token before."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from genrec.decoding import Filter, PrefixTrie, SearchResult, beam_search
from genrec.decoding.beam import StepDecoder
from genrec.errors import ConfigError
from genrec.models.heads.base import Head, register
from genrec.models.item_encoders import CodeTable, ItemEncoder
from genrec.models.tables import ItemTables, share


@register("tokens")
class TokenHead(Head):
    """Classifies the next code from the backbone's state, as a language model does.

    The backbone itself reads the codes: the state for level l is the one after the history and the
    first l codes. All that the head holds is one output table per level, so a code can be scored
    only where its level is due (TIGER, Rajput et al. 2023; language models over SIDs).

    Args:
        tables: item tables with codes.
        encoder: the item encoder, with one token per code.
        d_model: width of the hidden states.
        tied: share the code embeddings with the item encoder.
        temperature: if set, logits are cosines divided by it; otherwise dot products.
        label_smoothing: of the cross-entropy.
    """

    uses_trie = True
    searches_by_beams = True
    reads_tokens = True

    def __init__(
        self,
        *,
        tables: ItemTables,
        encoder: ItemEncoder,
        d_model: int,
        tied: bool = False,
        temperature: float | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(tables=tables, encoder=encoder, d_model=d_model)
        tables.require("codes", part="head 'tokens'")
        if temperature is not None and temperature <= 0:
            raise ConfigError(f"head 'tokens': temperature={temperature}; expected above 0")
        if encoder.code_table is None or encoder.tokens_per_item != len(tables.codebook_sizes):
            raise ConfigError(
                "head 'tokens': reads one state per code, so it needs one token per code; use item "
                "encoder 'sid-tokens', or a head for whole items such as 'autoregressive'"
            )
        self.temperature, self.label_smoothing = temperature, label_smoothing
        if tied:
            share(self, "output", encoder.code_table)
        else:
            self.output = CodeTable(codebook_sizes=tables.codebook_sizes, d_model=d_model)

    def level_logits(self, level: int, hidden: torch.Tensor) -> torch.Tensor:
        """Logits `[..., K_level]` of the codes of a level from states `[..., D]`."""
        keys = self.output.level(level)
        if self.temperature is None:
            return hidden @ keys.T
        return F.normalize(hidden, dim=-1) @ F.normalize(keys, dim=-1).T / self.temperature

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean over targets of their codes' cross-entropies, averaged over levels.

        Args:
            hidden: float `[M, L, D]`, the state before each code of the target.
            targets: int64 `[M]`, items.
        """
        codes = self.tables.codes[targets].long()
        losses = [
            F.cross_entropy(
                self.level_logits(level, hidden[:, level]).float(),
                codes[:, level],
                label_smoothing=self.label_smoothing,
            )
            for level in range(codes.shape[1])
        ]
        return torch.stack(losses).mean()

    def search(
        self,
        hidden: StepDecoder,
        *,
        k: int,
        trie: PrefixTrie | None = None,
        exclude: torch.Tensor | None = None,
        filter: Filter | None = None,
        beam_width: int = 50,
        exact: bool = False,
        renormalize: bool = False,
    ) -> SearchResult:
        """Beam search over the trie, certified; `exact` widens rows until they are proven."""
        if trie is None:
            raise ConfigError("head 'tokens': search needs the prefix trie of the vocabulary")
        return beam_search(
            hidden,
            trie,
            k=k,
            beam_width=beam_width,
            exclude=exclude,
            filter=filter,
            exact=exact,
            renormalize=renormalize,
        )
