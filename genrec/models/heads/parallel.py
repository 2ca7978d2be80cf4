"""All codes of the next item at once; an item's score is a sum of table look-ups."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from genrec.decoding import Filter, PrefixTrie, SearchResult, exact_parallel_search
from genrec.errors import ConfigError
from genrec.models.heads.base import Head, register
from genrec.models.heads.blockwise import blockwise_mean
from genrec.models.heads.item_softmax import CodeRows, item_cross_entropy, log_partition
from genrec.models.item_encoders import CodeTable, ItemEncoder
from genrec.models.tables import ItemTables, share


@register("parallel")
class ParallelHead(Head):
    """One residual head per code with cosine logits (RPG, Hou et al., KDD 2025).

    `g_l(h) = h + SiLU(W_l h + b_l)`, `logits_l = cos(g_l(h), e_l) / temperature`; `W_l` and `b_l`
    start at zero. An item's score is a sum over its codes, computed exactly for the whole
    catalogue. Two losses:

    - `codes` (RPG): mean over the levels of the codes' cross-entropy. The score of an item is the
      sum of its codes' log-probabilities; most of the mass goes to tuples that do not exist.
    - `items`: cross-entropy over the items that exist, whose logits are a learned `scale`, at
      first 1, times the mean of their codes' logits. Items of one tuple count one by one. Nothing
      leaks, and scores are log-probabilities of items.

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
        self._rows: tuple[torch.Tensor, int, CodeRows] | None = None

    def keys(self) -> torch.Tensor:
        """Unit vectors `[sum K, D]` of all codes, over the temperature."""
        return F.normalize(self.table.weight, dim=-1) / self.temperature

    def queries(
        self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Unit vectors `[L, D, M]` of states `[M, D]`, one per level."""
        inner = torch.baddbmm(bias, hidden.expand(len(weight), -1, -1), weight)
        return F.normalize(self.dropout(hidden + F.silu(inner)), dim=-1).transpose(1, 2)

    def products(self, keys: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Scores `[sum K, M]` of all codes.

        Codes come first because the sums over codes read whole rows of states.
        """
        sizes = self.table.codebook_sizes
        if len(set(sizes)) == 1:
            return torch.bmm(keys.view(len(sizes), sizes[0], -1), queries).flatten(0, 1).float()
        levels = zip(keys.split(sizes), queries, strict=True)
        return torch.cat([key @ query for key, query in levels]).float()

    def logits(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits `[K_l, M]` of every level, from hidden states `[M, D]`."""
        queries = self.queries(hidden, self.weight, self.bias)
        return self.products(self.keys(), queries).split(self.table.codebook_sizes)

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of codes or items, see the class."""
        if self.normalize == "items":
            keys = self._scaled_keys()
            return blockwise_mean(self._item_loss, hidden, targets, keys, self.weight, self.bias)
        codes = self.tables.codes[targets].long().T
        losses = [
            F.cross_entropy(level.T, code, label_smoothing=self.label_smoothing)
            for level, code in zip(self.logits(hidden), codes, strict=True)
        ]
        return torch.stack(losses).mean()

    def _scaled_keys(self) -> torch.Tensor:
        """Keys whose products with the queries add up to the items' logits."""
        assert self.log_scale is not None
        return self.keys() * (self.log_scale.exp() / len(self.weight))

    def _item_loss(
        self,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        keys: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        """Sum of the cross-entropies over items."""
        mean = item_cross_entropy(
            self.products(keys, self.queries(hidden, weight, bias)),
            self.code_rows(),
            targets,
            label_smoothing=self.label_smoothing,
        )
        return mean * len(targets)

    def code_rows(self) -> CodeRows:
        """The rows of the joined code table that each item adds up; made once for given codes."""
        codes = self.tables.codes
        if self._rows is None or self._rows[0] is not codes or self._rows[1] != codes._version:
            rows = CodeRows(codes, self.table.offsets, len(self.table.weight))
            self._rows = codes, codes._version, rows
        return self._rows[2]

    def log_probs(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """Per level `[B, K_l]`; an item's sum over levels is its score."""
        if self.normalize == "codes":
            return [level.log_softmax(0).T for level in self.logits(hidden)]
        queries = self.queries(hidden, self.weight, self.bias)
        table = self.products(self._scaled_keys(), queries)
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
        filter: Filter | None = None,
        beam_width: int = 50,
        exact: bool = False,
        renormalize: bool = False,
    ) -> SearchResult:
        """Exact top `k`; beam width has no effect."""
        if trie is None:
            raise ConfigError("head 'parallel': search needs the prefix trie of the vocabulary")
        found = exact_parallel_search(
            self.log_probs(hidden), trie, k=k, exclude=exclude, filter=filter
        )
        if self.normalize == "items":
            found = replace(found, leaked=torch.zeros_like(found.leaked))
        return found
