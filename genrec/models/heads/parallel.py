"""All codes of the next item at once; an item's score is a sum of table look-ups."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from genrec.decoding import PrefixTrie, SearchResult, exact_parallel_search
from genrec.errors import ConfigError
from genrec.models.heads.base import Head
from genrec.models.item_encoders import CodeTable, ItemEncoder
from genrec.models.tables import ItemTables, share


class ParallelHead(Head):
    """One residual head per code with cosine logits (RPG, Hou et al., KDD 2025).

    `g_l(h) = h + SiLU(W_l h)`, `logits_l = cos(g_l(h), e_l) / temperature`, loss = mean over the
    levels of the cross-entropy. The score of an item is the sum of its codes' log-probabilities,
    computed exactly for the whole catalogue.

    Args:
        tables: item tables with codes.
        encoder: the item encoder.
        d_model: width.
        temperature: of the cosine logits.
        tied: share the code embeddings with the item encoder.
        dropout: on the input of the head.
        label_smoothing: of the cross-entropy.

    Cost of the search: N L additions per user. Memory per level: `d_model ** 2` parameters, and
    `K d_model` where the tables are not shared.
    """

    uses_trie = True

    def __init__(
        self,
        *,
        tables: ItemTables,
        encoder: ItemEncoder,
        d_model: int,
        temperature: float = 0.05,
        tied: bool = True,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(tables=tables, encoder=encoder, d_model=d_model)
        tables.require("codes", part="head 'parallel'")
        if temperature <= 0:
            raise ConfigError(f"head 'parallel': temperature={temperature}; expected above 0")
        self.temperature, self.label_smoothing = temperature, label_smoothing
        sizes = tables.codebook_sizes
        if tied and encoder.code_table is None:
            raise ConfigError(
                "head 'parallel': tied=true needs an item encoder with code embeddings (type 'sid')"
                "; add one or set tied: false"
            )
        if tied:
            share(self, "table", encoder.code_table)  # type: ignore[arg-type]
        else:
            self.table = CodeTable(codebook_sizes=sizes, d_model=d_model)
        self.weight = nn.Parameter(torch.zeros(len(sizes), d_model, d_model))
        self.bias = nn.Parameter(torch.zeros(len(sizes), 1, d_model))
        self.dropout = nn.Dropout(dropout)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits float `[L, M, K]` of hidden states `[M, D]`; K is the largest codebook.

        Codes beyond a smaller codebook have logit -inf.
        """
        hidden = self.dropout(hidden)
        inner = torch.baddbmm(self.bias, hidden.expand(len(self.weight), -1, -1), self.weight)
        queries = F.normalize(hidden + F.silu(inner), dim=-1)
        keys = F.normalize(self.table.weight, dim=-1)
        sizes = self.table.codebook_sizes
        if len(set(sizes)) == 1:
            keys = keys.view(len(sizes), sizes[0], -1)
            return torch.bmm(queries, keys.transpose(1, 2)) / self.temperature
        widest = max(sizes)
        parts = [
            F.pad(query @ key.T / self.temperature, (0, widest - len(key)), value=-torch.inf)
            for query, key in zip(queries, keys.split(sizes), strict=True)
        ]
        return torch.stack(parts)

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean over states and levels of the codes' cross-entropy."""
        codes = self.tables.codes[targets].long().T
        logits = self.logits(hidden).float()
        if self.label_smoothing and len(set(self.table.codebook_sizes)) > 1:
            smoothed = [
                F.cross_entropy(part[:, :size], code, label_smoothing=self.label_smoothing)
                for part, size, code in zip(logits, self.table.codebook_sizes, codes, strict=True)
            ]
            return torch.stack(smoothed).mean()
        return F.cross_entropy(
            logits.flatten(0, 1), codes.flatten(), label_smoothing=self.label_smoothing
        )

    def log_probs(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """Log-probabilities `[B, K_l]` of every level."""
        logits = self.logits(hidden).float().log_softmax(-1)
        return [
            part[:, :size] for part, size in zip(logits, self.table.codebook_sizes, strict=True)
        ]

    def search(
        self,
        hidden: torch.Tensor,
        *,
        k: int,
        trie: PrefixTrie | None = None,
        exclude: torch.Tensor | None = None,
        beam_width: int = 50,
        exact: bool = False,
    ) -> SearchResult:
        """Exact top `k`; beam width has no effect."""
        if trie is None:
            raise ConfigError("head 'parallel': search needs the prefix trie of the vocabulary")
        return exact_parallel_search(self.log_probs(hidden), trie, k=k, exclude=exclude)
