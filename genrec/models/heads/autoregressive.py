"""The codes of the next item in order, each given those before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from genrec.decoding import Filter, PrefixTrie, SearchResult, beam_search
from genrec.decoding.beam import checked_widths
from genrec.decoding.step import chosen_backend
from genrec.errors import ConfigError
from genrec.models.heads.base import Head, register
from genrec.models.item_encoders import CodeTable, ItemEncoder
from genrec.models.tables import ItemTables


@register("autoregressive")
class AutoregressiveHead(Head):
    """A light decoder: one residual MLP per level on the user's state and the codes so far.

    Level l sees `x = P_l h + sum_{j<l} E_j[c_j]` and scores its codes with
    `W_l (x + MLP_l(norm(x)))`. It never reads the history again, so the cost of a beam is one
    small MLP (the shape of SID-MLP, arXiv 2605.12617, which found it on par with a transformer
    decoder).

    Args:
        tables: item tables with codes.
        encoder: the item encoder; unused, prefix embeddings are the head's own.
        d_model: width of the hidden states.
        hidden: hidden width of the MLPs, `2 * d_model` by default.
        dropout: inside the MLPs.
        temperature: if set, logits are cosines divided by it; otherwise dot products.
        label_smoothing: of the cross-entropy.
    """

    uses_trie = True
    searches_by_beams = True

    def __init__(
        self,
        *,
        tables: ItemTables,
        encoder: ItemEncoder,
        d_model: int,
        hidden: int | None = None,
        dropout: float = 0.1,
        temperature: float | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(tables=tables, encoder=encoder, d_model=d_model)
        tables.require("codes", part="head 'autoregressive'")
        if temperature is not None and temperature <= 0:
            raise ConfigError(f"head 'autoregressive': temperature={temperature}; expected above 0")
        if hidden is not None and hidden < 1:
            raise ConfigError(f"head 'autoregressive': hidden={hidden}; expected at least 1")
        self.temperature, self.label_smoothing = temperature, label_smoothing
        sizes, width = tables.codebook_sizes, hidden or 2 * d_model
        # Nothing is written after the only code of one level.
        self.prefix = (
            CodeTable(codebook_sizes=sizes[:-1], d_model=d_model) if len(sizes) > 1 else None
        )
        self.output = CodeTable(codebook_sizes=sizes, d_model=d_model)
        self.project = nn.Linear(d_model, len(sizes) * d_model)
        self.steps = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(d_model),
                nn.Linear(d_model, width),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(width, d_model),
            )
            for _ in sizes
        )

    def level_logits(self, level: int, x: torch.Tensor) -> torch.Tensor:
        """Logits `[..., K_level]` from the level's input `[..., D]`."""
        query, keys = x + self.steps[level](x), self.output.level(level)
        if self.temperature is None:
            return query @ keys.T
        return F.normalize(query, dim=-1) @ F.normalize(keys, dim=-1).T / self.temperature

    def prefix_level(self, level: int) -> torch.Tensor:
        """What each code of `level` adds to the inputs of the levels after, `[K_level, D]`."""
        assert self.prefix is not None  # the last level adds to nothing
        return self.prefix.level(level)

    def project_levels(self, hidden: torch.Tensor) -> torch.Tensor:
        """The state's share `[..., L, D]` of every level's input, once per user."""
        return self.project(hidden).unflatten(-1, (len(self.steps), self.d_model))

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean over states of the codes' cross-entropies, averaged over levels."""
        codes = self.tables.codes[targets].long()
        states, prefix = self.project_levels(hidden), torch.zeros_like(hidden)
        losses = []
        for level in range(len(self.steps)):
            logits = self.level_logits(level, states[:, level] + prefix).float()
            losses.append(
                F.cross_entropy(logits, codes[:, level], label_smoothing=self.label_smoothing)
            )
            if level + 1 < len(self.steps):
                prefix = prefix + F.embedding(codes[:, level], self.prefix_level(level))
        return torch.stack(losses).mean()

    def _compiles(self, hidden: torch.Tensor, trie: PrefixTrie) -> bool:
        """Whether exact lists can come from `genrec.models.light_search`."""
        return (
            chosen_backend("auto", trie.device) == "compiled"
            and not self.training
            and hidden.device.type == "cpu"
            and hidden.dtype == self.output.weight.dtype == torch.float32
            and trie.codebook_sizes == self.tables.codebook_sizes
        )

    def decoder(self, hidden: torch.Tensor) -> LightDecoder:
        """The step decoder of hidden states `[B, D]` for a beam search."""
        return LightDecoder(self, self.project_levels(hidden))

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
        """Beam search over the trie, certified; `exact` widens rows until they are proven.

        With numba, exact lists on the CPU come from `genrec.models.light_search`, where the
        width has no effect; in renormalised scores `leaked` is then what its first, narrow search
        met.
        """
        if trie is None:
            raise ConfigError(
                "head 'autoregressive': search needs the prefix trie of the vocabulary"
            )
        if exact and self._compiles(hidden, trie):
            from genrec.models.light_search import light_search

            checked_widths(trie, k, beam_width)
            return light_search(
                self,
                self.project_levels(hidden),
                trie,
                k=k,
                exclude=exclude,
                filter=filter,
                renormalize=renormalize,
            )
        return beam_search(
            self.decoder(hidden),
            trie,
            k=k,
            beam_width=beam_width,
            exclude=exclude,
            filter=filter,
            exact=exact,
            renormalize=renormalize,
        )


class LightDecoder:
    """Steps of an `AutoregressiveHead`; the state of a beam is the sum of its code embeddings."""

    returns_logits = True  # the search takes the log-sum-exp off

    def __init__(self, head: AutoregressiveHead, states: torch.Tensor) -> None:
        self.head, self.states = head, states

    def first(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `[B, K_0]` of the first code, and the empty prefix `[B, 1, D]`."""
        logits = self.head.level_logits(0, self.states[:, 0])
        return logits, torch.zeros_like(self.states[:, :1])

    def next(
        self, state: torch.Tensor, parent: torch.Tensor, code: torch.Tensor, level: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Extend beams by the code of level - 1 and score the codes of `level`.

        Args:
            state: prefixes `[B, W, D]` of the previous beams.
            parent: int64 `[B, W']`, which of them each new beam extends.
            code: int64 `[B, W']`, the code of level - 1 it chose.
            level: the level to score.

        Returns:
            Logits `[B, W', K_level]` and the new prefixes `[B, W', D]`.
        """
        index = parent.unsqueeze(-1).expand(-1, -1, state.shape[-1])
        prefix = state.gather(1, index) + F.embedding(code, self.head.prefix_level(level - 1))
        logits = self.head.level_logits(level, self.states[:, level, None] + prefix)
        return logits, prefix

    def select(self, rows: torch.Tensor) -> LightDecoder:
        """The same decoder for the users `rows`, int64 `[b]`."""
        return LightDecoder(self.head, self.states[rows])
