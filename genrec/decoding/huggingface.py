"""Constrain `generate()` of Hugging Face models whose semantic IDs are special tokens.

A drop-in for `prefix_allowed_tokens_fn`: the trie is walked for all rows at once on the device of
the scores, without a Python call per beam.
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

    Works with greedy search, sampling, beam search, `num_return_sequences` and `assistant_model`,
    with batches of left-padded prompts, for causal models and encoder-decoders. Scores are masked,
    not renormalised. After the SID only the end token is let through, or everything if there is
    none. The rows of a prompt without an allowed item end at once.

    Every call walks the trie along the tokens behind the prompt, so rows may be reordered and
    lengths may jump. A beam that has left the trie, which `generate()` keeps when fewer than
    `num_beams` exist, has score -inf and stays so. A prompt none of whose rows has a token left is
    an error, as where another rule of `generate()` forces a token: models like BART force their
    first and last (`forced_bos_token_id=None` switches the first off; the last wants
    `max_new_tokens` above the number of levels). So are drafts that the trie does not constrain
    (`prompt_lookup_num_tokens`).

    Where the prompt ends is where `generate()` starts: at the first call, and at any whose rows do
    not begin with the prompts of the call before. One processor so serves one `generate()` after
    another. A prompt that is the last one and a SID looks like its next step, so call `leaves` or
    `reset` before that, or say with `prompt_length` where the prompts end.

    Args:
        trie: the valid tuples.
        token_ids: for each level, the token of each code; tokens of one level differ.
        eos_token_id: the only token let through after a full SID; None lets everything through,
            and wants `prompt_length` if more than the SID is generated.
        filter: the items that may come out, for all prompts or one row per prompt.
        prompt_length: tokens before the SID, padding included; 1 for most encoder-decoders. It may
            be set anew, as an attribute, before every `generate()`.
        rows_per_prompt: the larger of `num_beams` and `num_return_sequences`. Without it, rows of a
            filter belong to equal shares of the batch, which is checked as far as prompts differ:
            those of an encoder-decoder's decoder do not.

    Raises:
        ConfigError: if tokens are missing, negative or repeated, an end token is no token or a
            code's, the filter was made for another trie, or the numbers make no sense.
    """

    def __init__(
        self,
        trie: PrefixTrie,
        token_ids: Sequence[Sequence[int] | Tensor],
        *,
        eos_token_id: int | None,
        filter: Filter | None = None,
        prompt_length: int | None = None,
        rows_per_prompt: int | None = None,
    ) -> None:
        self.trie = trie
        self.token_ids = _checked_tokens(trie, token_ids)
        if eos_token_id is not None:
            _check_end(eos_token_id, self.token_ids)
        for name, value, least in (
            ("prompt_length", prompt_length, 0),
            ("rows_per_prompt", rows_per_prompt, 1),
        ):
            if value is not None and value < least:
                raise ConfigError(f"{name}={value}: expected at least {least}, or None")
        last = max(int(tokens.max()) for tokens in self.token_ids)
        self.vocabulary = 1 + max(last, -1 if eos_token_id is None else eos_token_id)
        self.eos_token_id = eos_token_id
        self.filter = None if filter is None else filter.checked(len(filter), trie)
        self.prompt_length = prompt_length
        self.rows_per_prompt = rows_per_prompt
        self._codes = [_inverse(tokens, self.vocabulary) for tokens in self.token_ids]
        self.reset()

    def reset(self) -> None:
        """Forget the prompts of the last step; the next call starts a `generate()`.

        Done by itself when the rows of a call do not continue those of the call before, and by
        `leaves`.
        """
        self._start: int | None = None
        self._prompts: Tensor | None = None
        self._length = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[R, V]` with -inf for all tokens that do not continue a SID.

        Raises:
            ConfigError: if the model's vocabulary has fewer tokens than the SIDs need, the rows are
                not those of the filter's prompts, a prompt has no token left, or nothing says
                whether a SID ended or a prompt.
        """
        if scores.shape[1] < self.vocabulary:
            raise ConfigError(
                f"scores of {scores.shape[1]} tokens, but the SIDs use token {self.vocabulary - 1};"
                " add the tokens to the tokenizer and resize the model's embeddings"
            )
        self._move(scores.device)
        start = self._started(input_ids)
        groups, empty = self._groups(input_ids[:, :start])
        level = input_ids.shape[1] - start
        nodes = self._walk(input_ids[:, start:])
        if level < self.trie.num_levels:
            out, left = self._masked(level, nodes, scores)
        elif self.eos_token_id is None:
            if self.prompt_length is None:
                raise ConfigError(
                    f"{input_ids.shape[1]} tokens continue the last prompts of {start} by a "
                    "semantic ID: without eos_token_id they may be the same generate() or the "
                    "prompts of another. Call leaves() or reset() before another one; for tokens "
                    "after the semantic ID give prompt_length"
                )
            return scores
        else:
            out, left = torch.full_like(scores, -torch.inf), nodes >= 0
            ends = scores[:, self.eos_token_id].masked_fill(~left, -torch.inf)
            out[:, self.eos_token_id] = ends
            left = left & (ends != -torch.inf)
        if empty is not None:
            assert self.eos_token_id is not None
            ends = torch.where(empty, scores[:, self.eos_token_id], out[:, self.eos_token_id])
            out[:, self.eos_token_id] = ends
            left = left | (empty & (ends != -torch.inf))
        if level <= self.trie.num_levels:  # later, all that is left may be dead beams
            self._check_left(groups, left, start)
        return out

    def leaves(self, sequences: Tensor) -> Tensor:
        """The leaf of each generated sequence `[R, T]` of the last `generate()`; -1 for none.

        The next call of the processor starts a `generate()`, even if its prompts are `sequences`.

        Args:
            sequences: what `generate()` returned, prompts included for causal models.

        Raises:
            ConfigError: if there was no `generate()` since `reset`, and no `prompt_length`.
        """
        start = self._start if self.prompt_length is None else self.prompt_length
        if start is None:
            raise ConfigError("leaves: no generate() since the last reset(); call leaves before it")
        self._move(sequences.device)
        self._prompts = None
        tokens = sequences[:, start : start + self.trie.num_levels]
        nodes = self._walk(tokens)
        if tokens.shape[1] < self.trie.num_levels:
            return torch.full_like(nodes, -1)
        live = self.trie.live_nodes(self.trie.num_levels)
        return nodes if live is None else torch.where(live[nodes.clamp_min(0)], nodes, -1)

    def _started(self, input_ids: Tensor) -> int:
        """How many tokens stand before the SID."""
        length, start = input_ids.shape[1], self._start
        if self.prompt_length is not None:
            if length < self.prompt_length:
                raise ConfigError(
                    f"rows of {length} tokens, but prompt_length={self.prompt_length}: expected "
                    "the number of tokens that generate() is given, padding included"
                )
            return self.prompt_length
        before = self._prompts
        if before is not None and start is not None and length > start:
            near = length <= max(start + self.trie.num_levels, self._length + 1)
            if near and _all_among(input_ids[:, :start], before):
                # Only a single row goes back, to replace drafts.
                if len(input_ids) > 1 and length <= self._length:
                    raise ConfigError(
                        f"{len(input_ids)} rows of {length} tokens, which continue the last "
                        f"prompts of {start}, after rows of {self._length}: if this is another "
                        "generate(), call leaves() or reset() before it; else give prompt_length"
                    )
                self._length = length
                return start
        self._start, self._length, self._prompts = length, length, input_ids
        return length

    def _groups(self, prompts: Tensor) -> tuple[Tensor, Tensor | None]:
        """The prompt's number of each row, int64 `[R]`; and which may get nothing, bool `[R]`."""
        rows, users = len(prompts), 1 if self.filter is None else len(self.filter)
        hashes = _hashes(prompts)
        each = self.rows_per_prompt
        if each is not None:
            wrong = rows % each or (users > 1 and rows != users * each)
        else:
            wrong = rows % users
            if not wrong and users > 1:
                shares = hashes.view(users, -1)
                wrong = bool((shares != shares[:, :1]).any())
        if wrong:
            raise ConfigError(
                f"{rows} rows for a filter of {users} prompts, rows_per_prompt={each}: expected "
                "one row for all, or one per prompt in the order of the batch"
            )
        if each is None and users == 1:
            groups = hashes.unique(return_inverse=True)[1]
        else:
            groups = torch.arange(rows, device=prompts.device) // (each or rows // users)
        none = self.trie.num_live == 0
        if self.filter is None and not none:
            return groups, None
        allowed = self.filter.num_allowed if self.filter is not None else groups.new_zeros(1)
        empty = (allowed == 0).repeat_interleave(rows // users)
        if not bool(empty.any()):
            return groups, None
        if self.eos_token_id is None:
            row = int(empty.nonzero()[0])
            raise ConfigError(
                f"the prompt of row {row} has no allowed item; leave it out, or give eos_token_id, "
                "with which it ends"
            )
        return groups, empty

    def _check_left(self, groups: Tensor, left: Tensor, start: int) -> None:
        held = torch.zeros_like(left).index_fill_(0, groups[left], True)
        bad = ~held[groups]
        if not bool(bad.any()):
            return
        raise ConfigError(
            f"row {int(bad.nonzero()[0])}: no token that continues a semantic ID, which starts "
            f"after {start} tokens, has a score above -inf. If this is another generate(), whose "
            "prompts continue the last ones, call leaves() or reset() before it, or give "
            "prompt_length. Else another rule of generate() decides on the tokens: "
            "forced_bos_token_id, forced_eos_token_id (give max_new_tokens of at least "
            f"{self.trie.num_levels + 1}), min_new_tokens, bad_words_ids, or drafts that are not "
            "constrained (prompt_lookup_num_tokens)"
        )

    def _walk(self, tokens: Tensor) -> Tensor:
        """The node of each row after the first tokens of `[R, n]`; -1 outside the trie."""
        nodes = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        for level in range(min(tokens.shape[1], self.trie.num_levels)):
            known = tokens[:, level].clamp_max(self.vocabulary - 1)
            codes = self._codes[level][known].masked_fill(known != tokens[:, level], -1)
            nodes = self.trie.descend(level, nodes, codes)
        return nodes

    def _masked(self, level: int, nodes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the children's tokens, -inf elsewhere; and which rows have one, bool `[R]`."""
        trie = self.trie
        codes, children, dead = trie.level(level).children(nodes.clamp_min(0))
        tokens = self.token_ids[level][codes]
        values = scores.gather(1, tokens)
        dead = dead | (nodes[:, None] < 0)
        live = trie.live_nodes(level + 1)
        if live is not None:
            dead = dead | ~live[children]
        if self.filter is not None:
            rows = children.view(len(self.filter), -1)
            dead = dead | ~self.filter.alive(level + 1, rows).view(children.shape)
        values = values.masked_fill(dead, -torch.inf)
        # the largest of a token's: places without a child may repeat the token of one
        out = torch.full_like(scores, -torch.inf).scatter_reduce_(1, tokens, values, "amax")
        return out, (values != -torch.inf).any(dim=1)

    def _move(self, device: torch.device) -> None:
        if self.token_ids[0].device == device:
            return
        self.trie = self.trie.to(device)
        if self.filter is not None:
            self.filter = self.filter.checked(len(self.filter), self.trie)
        self.token_ids = [tokens.to(device) for tokens in self.token_ids]
        self._codes = [codes.to(device) for codes in self._codes]


def _hashes(rows: Tensor) -> Tensor:
    """A number, int64 `[R]`, for each of `[R, T]` tokens: equal ones for equal rows."""
    powers = torch.full((rows.shape[1],), _PRIME, device=rows.device).cumprod(dim=0)
    return (rows * powers).sum(dim=1)


def _all_among(rows: Tensor, before: Tensor) -> bool:
    """Whether each of ``rows`` ``[R, T]`` is one of ``before`` ``[R', T]``.

    Rows are compared by a hash, and those found in full.
    """
    if torch.equal(rows, before):
        return True
    known, order = _hashes(before).sort()
    place = torch.searchsorted(known, _hashes(rows)).clamp_max_(len(known) - 1)
    return torch.equal(before[order[place]], rows)


def _check_end(token: int, token_ids: list[Tensor]) -> None:
    if token < 0:
        raise ConfigError(f"eos_token_id={token}: expected a token, or None")
    for level, tokens in enumerate(token_ids):
        if bool((tokens == token).any()):
            raise ConfigError(
                f"eos_token_id={token} is the token of a code of level {level}, after which "
                "generate() would end; give the end token, or None"
            )


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
