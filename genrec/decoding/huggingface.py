"""Constrain `generate()` of Hugging Face models whose semantic IDs are special tokens.

A drop-in for `prefix_allowed_tokens_fn`: the trie is walked for all rows at once on the device of
the scores, without a Python call per beam, and every row's node is kept between steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from genrec.decoding.filters import Filter
from genrec.decoding.trie import PrefixTrie
from genrec.errors import ConfigError

_PRIME = 0x9E3779B97F4A7C15 - 2**64  # odd, so that powers of it never vanish modulo 2**64


class SidLogitsProcessor(LogitsProcessor):
    """Lets only tokens through that continue an existing semantic ID; pass it to `generate()`.

    Works with greedy search, sampling, beam search and `num_return_sequences`, with batches of
    left-padded prompts, for causal models and encoder-decoders. Scores are masked, not
    renormalised. The SID starts where `generate()` starts. After it only the end token is let
    through, or everything if there is none.

    Beam search reorders the rows between steps: rows are found again by the tokens they hold. A
    beam that has left the trie, which `generate()` keeps when fewer than `num_beams` exist, has
    score -inf and stays so.

    One processor serves one `generate()` after another. A prompt that is the last output itself
    looks like one more step of it, so call `leaves` or `reset` before that.

    Args:
        trie: the valid tuples.
        token_ids: for each level, the token of each code; tokens of one level differ.
        eos_token_id: the only token let through after a full SID; None lets everything through.
        filter: the items that may come out, for all prompts or one row per prompt.

    Raises:
        ConfigError: if tokens are missing, negative or repeated, an end token is no token, or the
            filter was made for another trie.
    """

    def __init__(
        self,
        trie: PrefixTrie,
        token_ids: Sequence[Sequence[int] | Tensor],
        *,
        eos_token_id: int | None,
        filter: Filter | None = None,
    ) -> None:
        self.trie = trie
        self.token_ids = _checked_tokens(trie, token_ids)
        if eos_token_id is not None and eos_token_id < 0:
            raise ConfigError(f"eos_token_id={eos_token_id}: expected a token, or None")
        last = max(int(tokens.max()) for tokens in self.token_ids)
        self.vocabulary = 1 + max(last, -1 if eos_token_id is None else eos_token_id)
        self.eos_token_id = eos_token_id
        self.filter = None if filter is None else filter.checked(len(filter), trie)
        self._codes = [_inverse(tokens, self.vocabulary) for tokens in self.token_ids]
        self.reset()

    def reset(self) -> None:
        """Forget the rows of the last step; the next call starts a `generate()`.

        Done by itself when the rows of a call do not continue those of the call before, and by
        `leaves`.
        """
        self._start = 0
        self._ids: Tensor | None = None
        self._nodes = torch.empty(0, dtype=torch.int64)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[R, V]` with -inf for all tokens that do not continue a SID.

        Raises:
            ConfigError: if the model's vocabulary has fewer tokens than the SIDs need, or the rows
                are no multiple of the filter's.
        """
        if scores.shape[1] < self.vocabulary:
            raise ConfigError(
                f"scores of {scores.shape[1]} tokens, but the SIDs use token {self.vocabulary - 1};"
                " add the tokens to the tokenizer and resize the model's embeddings"
            )
        self._move(scores.device)
        nodes = self._advance(input_ids)
        level = input_ids.shape[1] - self._start
        self._ids, self._nodes = input_ids, nodes
        if level >= self.trie.num_levels:
            if self.eos_token_id is None:
                return scores
            only = torch.full_like(scores, -torch.inf)
            only[:, self.eos_token_id] = scores[:, self.eos_token_id]
            return only.masked_fill_((nodes < 0)[:, None], -torch.inf)
        return self._masked(level, nodes, scores)

    def leaves(self, sequences: Tensor) -> Tensor:
        """The leaf of each generated sequence `[R, T]` of the last `generate()`; -1 for none.

        The next call of the processor starts a `generate()`, even if its prompts are `sequences`.

        Args:
            sequences: what `generate()` returned, prompts included for causal models.
        """
        self._move(sequences.device)
        self._ids = None
        first = self._start
        return self._walk(sequences[:, first : first + self.trie.num_levels])

    def _advance(self, input_ids: Tensor) -> Tensor:
        """The node of each row: one step from its parent's if that is found, else from the root."""
        before = self._ids
        if before is None or input_ids.shape[1] != before.shape[1] + 1:
            return self._begin(input_ids)
        level = input_ids.shape[1] - self._start - 1
        parent = _find(input_ids[:, :-1], before)
        if parent is None:
            return self._begin(input_ids)
        nodes = self._nodes[parent]
        if level >= self.trie.num_levels:
            return nodes
        return self._step(level, nodes, input_ids[:, -1])

    def _begin(self, input_ids: Tensor) -> Tensor:
        self._start = input_ids.shape[1]
        return torch.zeros(len(input_ids), dtype=torch.int64, device=input_ids.device)

    def _step(self, level: int, nodes: Tensor, tokens: Tensor) -> Tensor:
        known = tokens.clamp_max(self.vocabulary - 1)
        codes = self._codes[level][known].masked_fill(known != tokens, -1)
        return self.trie.descend(level, nodes, codes)

    def _walk(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] < self.trie.num_levels:
            return torch.full((len(tokens),), -1, dtype=torch.int64, device=tokens.device)
        nodes = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        for level in range(self.trie.num_levels):
            nodes = self._step(level, nodes, tokens[:, level])
        live = self.trie.live_nodes(self.trie.num_levels)
        return nodes if live is None else torch.where(live[nodes.clamp_min(0)], nodes, -1)

    def _masked(self, level: int, nodes: Tensor, scores: Tensor) -> Tensor:
        """Scores of the children's tokens, -inf elsewhere."""
        trie = self.trie
        parents = nodes.clamp_min(0)
        pointer = trie.pointers[level]
        low = pointer[parents].to(torch.int64)[:, None]
        slots = torch.arange(trie.max_branch[level], device=nodes.device)
        absent = slots >= (pointer[parents + 1].to(torch.int64)[:, None] - low)
        children = torch.where(absent, low, low + slots)  # padding repeats the first child
        tokens = self.token_ids[level][trie.node_codes(level, children)]
        values = scores.gather(1, tokens)
        dead = nodes[:, None] < 0
        live = trie.live_nodes(level + 1)
        if live is not None:
            dead = dead | ~live[children]
        if self.filter is not None:
            dead = dead | ~self._alive(level + 1, children)
        values = values.masked_fill(dead, -torch.inf)
        # the largest of a token's: places without a child repeat the token of one
        return torch.full_like(scores, -torch.inf).scatter_reduce_(1, tokens, values, "amax")

    def _alive(self, depth: int, nodes: Tensor) -> Tensor:
        assert self.filter is not None
        users, rows = len(self.filter), len(nodes)
        if rows % users:
            raise ConfigError(
                f"{rows} rows for a filter of {users} prompts: expected one row for all, or one "
                "per prompt in the order of the batch"
            )
        return self.filter.alive(depth, nodes.view(users, -1)).view(nodes.shape)

    def _move(self, device: torch.device) -> None:
        if self.token_ids[0].device == device:
            return
        self.trie = self.trie.to(device)
        if self.filter is not None:
            self.filter = self.filter.checked(len(self.filter), self.trie)
        self.token_ids = [tokens.to(device) for tokens in self.token_ids]
        self._codes = [codes.to(device) for codes in self._codes]


def _find(rows: Tensor, before: Tensor) -> Tensor | None:
    """Which row of ``before`` ``[R', T]`` equals each of ``rows`` ``[R, T]``; None if any is new.

    Rows are compared by a hash, and those found in full. Equal rows are at the same node, so any of
    them will do.
    """
    if torch.equal(rows, before):
        return torch.arange(len(rows), device=rows.device)
    powers = torch.full((rows.shape[1],), _PRIME, device=rows.device).cumprod(dim=0)
    known, order = (before * powers).sum(dim=1).sort()
    place = torch.searchsorted(known, (rows * powers).sum(dim=1)).clamp_max_(len(known) - 1)
    found = order[place]
    return found if torch.equal(before[found], rows) else None


def _checked_tokens(trie: PrefixTrie, token_ids: Sequence[Sequence[int] | Tensor]) -> list[Tensor]:
    tables = [torch.as_tensor(tokens).to(trie.device) for tokens in token_ids]
    shapes = [tuple(table.shape) for table in tables]
    if shapes != [(size,) for size in trie.codebook_sizes]:
        raise ConfigError(
            f"token_ids of shapes {shapes}: expected one token per code, {trie.codebook_sizes}"
        )
    for level, table in enumerate(tables):
        if table.is_floating_point() or table.dtype == torch.bool:
            raise ConfigError(f"token_ids of level {level} are {table.dtype}: expected integers")
        if int(table.min()) < 0:
            raise ConfigError(
                f"token_ids of level {level} hold {int(table.min())}: expected tokens"
            )
        values, counts = table.unique(return_counts=True)
        if int(counts.max()) > 1:
            token = int(values[counts.argmax()])
            raise ConfigError(
                f"token_ids of level {level}: token {token} stands for {int(counts.max())} codes; "
                "were all tokens added to the tokenizer?"
            )
    return [table.to(torch.int64) for table in tables]


def _inverse(tokens: Tensor, vocabulary: int) -> Tensor:
    """The code of each token, int64 ``[vocabulary]``; -1 for other tokens."""
    codes = torch.full((vocabulary,), -1, dtype=torch.int64, device=tokens.device)
    codes[tokens] = torch.arange(len(tokens), device=tokens.device)
    return codes
