"""All codes of the next item at once; an item's score is a sum of table look-ups."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from genrec.decoding import PrefixTrie, SearchResult, exact_parallel_search
from genrec.errors import ConfigError
from genrec.models.heads.base import Head
from genrec.models.heads.item_softmax import CodeRows, item_cross_entropy, log_partition
from genrec.models.item_encoders import CodeTable, ItemEncoder
from genrec.models.tables import ItemTables, share


class ParallelHead(Head):
    """One residual head per code with cosine logits (RPG, Hou et al., KDD 2025).

    `g_l(h) = h + SiLU(W_l h)`, `logits_l = cos(g_l(h), e_l) / temperature`; an item's score is the
    sum of its codes' logits, computed exactly for the whole catalogue. Two losses:

    - `codes` (RPG): mean over the levels of the codes' cross-entropy. The score of an item is the
      sum of its codes' log-probabilities; most of the mass goes to tuples that do not exist.
    - `items`: cross-entropy over the items that exist, whose logits are `scale` times the mean of
      their codes' logits. Nothing leaks, and scores are log-probabilities of items.

    Args:
        tables: item tables with codes.
        encoder: the item encoder.
        d_model: width.
        temperature: of the cosine logits.
        tied: share the code embeddings with the item encoder.
        dropout: on the per-code queries.
        label_smoothing: of the cross-entropy.
        normalize: `codes` or `items`, what the softmax runs over.

    Cost of the search, and per state of the `items` loss: N L additions. Memory per level:
    `d_model ** 2` parameters, and `K d_model` where the tables are not shared.
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
        normalize: str = "codes",
    ) -> None:
        super().__init__(tables=tables, encoder=encoder, d_model=d_model)
        tables.require("codes", part="head 'parallel'")
        if temperature <= 0:
            raise ConfigError(f"head 'parallel': temperature={temperature}; expected above 0")
        if normalize not in ("codes", "items"):
            raise ConfigError(
                f"head 'parallel': normalize={normalize!r}; expected 'codes' or 'items'"
            )
        self.temperature, self.label_smoothing = temperature, label_smoothing
        self.normalize = normalize
        sizes = tables.codebook_sizes
        if not tied:
            self.table = CodeTable(codebook_sizes=sizes, d_model=d_model)
        elif encoder.code_table is not None:
            share(self, "table", encoder.code_table)
        else:
            raise ConfigError(
                "head 'parallel': tied=true needs an item encoder with code embeddings (type 'sid')"
                "; add one or set tied: false"
            )
        self.weight = nn.Parameter(torch.zeros(len(sizes), d_model, d_model))
        self.bias = nn.Parameter(torch.zeros(len(sizes), 1, d_model))
        self.log_scale = nn.Parameter(torch.zeros(())) if normalize == "items" else None
        self.dropout = nn.Dropout(dropout)
        self._rows: CodeRows | None = None

    def logits(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """Logits `[K_l, M]` of every level, from hidden states `[M, D]`.

        Codes come first because the sums over codes read whole rows of states.
        """
        inner = torch.baddbmm(self.bias, hidden.expand(len(self.weight), -1, -1), self.weight)
        queries = F.normalize(self.dropout(hidden + F.silu(inner)), dim=-1).transpose(1, 2)
        keys = F.normalize(self.table.weight, dim=-1) / self.temperature
        sizes = self.table.codebook_sizes
        if len(set(sizes)) == 1:
            return list(torch.bmm(keys.view(len(sizes), sizes[0], -1), queries).float())
        return [
            (key @ query).float() for query, key in zip(queries, keys.split(sizes), strict=True)
        ]

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of codes or items, see the class."""
        logits = self.logits(hidden)
        if self.normalize == "items":
            return item_cross_entropy(
                self._item_table(logits),
                self.code_rows(),
                targets,
                label_smoothing=self.label_smoothing,
            )
        codes = self.tables.codes[targets].long().T
        losses = [
            F.cross_entropy(level.T, code, label_smoothing=self.label_smoothing)
            for level, code in zip(logits, codes, strict=True)
        ]
        return torch.stack(losses).mean()

    def code_rows(self) -> CodeRows:
        """The rows of the joined code table that each item adds up; made once."""
        if self._rows is None or self._rows.bags.device != self.tables.codes.device:
            self._rows = CodeRows(self.tables.codes, self.table.offsets, len(self.table.weight))
        return self._rows

    def _item_table(self, logits: list[torch.Tensor]) -> torch.Tensor:
        """Code scores `[sum K, M]` whose sums are the items' logits."""
        assert self.log_scale is not None
        return torch.cat(logits) * (self.log_scale.exp() / len(logits))

    def log_probs(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """Per level `[B, K_l]`; an item's sum over levels is its score."""
        logits = self.logits(hidden)
        if self.normalize == "codes":
            return [level.log_softmax(0).T for level in logits]
        table = self._item_table(logits)
        levels = [level.T for level in table.split(self.table.codebook_sizes)]
        levels[0] = levels[0] - log_partition(table, self.code_rows()).unsqueeze(1)
        return levels

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
        found = exact_parallel_search(self.log_probs(hidden), trie, k=k, exclude=exclude)
        if self.normalize == "items":
            found = replace(found, leaked=torch.zeros_like(found.leaked))
        return found
