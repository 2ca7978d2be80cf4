"""A recommender: ItemEncoder x Backbone x Head, as a Hugging Face `PreTrainedModel`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from genrec.decoding import Filter, PrefixTrie, SearchResult, default_beam_width
from genrec.errors import ArtefactError, ConfigError
from genrec.models.backbones import BACKBONES, Backbone
from genrec.models.code_decoder import CodeDecoder, CodeScores
from genrec.models.heads import HEADS, Head
from genrec.models.heads.dense_contrast import Seen
from genrec.models.initial import check_initial, xavier_normal
from genrec.models.item_encoders import ITEM_ENCODERS, EventFeature, ItemEncoder
from genrec.models.meta import SequenceMeta
from genrec.models.recommender_config import RecommenderConfig
from genrec.models.registry import build_part
from genrec.models.tables import ItemTables

META_KEYS = ("event_time", "query_time", "action", "query_action", "user")


@dataclass
class RecommenderOutput(ModelOutput):
    """Output of a forward pass.

    Attributes:
        loss: scalar, mean over the labelled positions; None without labels.
        hidden: float `[B, S, D]`, the state of each item; None where the loss is of a head that
            reads tokens, which asks the backbone for states of codes.
    """

    loss: torch.Tensor | None = None
    hidden: torch.Tensor | None = None


class Recommender(PreTrainedModel):
    """Predicts the next item of a history.

    Save and load with `save_pretrained` and `from_pretrained`; the folder holds the item tables
    too. `check_vocabulary` refuses a SID vocabulary that it was not trained with.

    Args:
        config: sizes and parts.
        tables: values of the item tables (`codes`, `vectors`, `counts`), as for
            `ItemTables.fill`; left out when a checkpoint is loaded.

    Raises:
        ConfigError: for parts that do not exist, misspelt keys, or parts that need codes or
            vectors which the model was not given.
    """

    config_class = RecommenderConfig
    base_model_prefix = ""
    main_input_name = "items"

    def __init__(
        self, config: RecommenderConfig, *, tables: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config)
        check_initial(config.initial)
        if config.initial != "parts" and config.backbone.get("pretrained"):
            raise ConfigError(
                f"model: initial={config.initial!r} would draw the pretrained weights of the "
                "backbone anew; leave one of them out"
            )
        self.tables = ItemTables(
            num_items=config.num_items,
            codebook_sizes=config.codebook_sizes,
            vector_dim=config.vector_dim,
            feature_columns=config.feature_columns,
            feature_vectors=config.feature_vectors,
            user_columns=config.user_columns,
            num_users=config.num_users,
        )
        if tables:
            self.tables.fill(**tables)
        width = config.d_model
        self.item_encoder: ItemEncoder = build_part(
            "item encoder", ITEM_ENCODERS, config.item_encoder, tables=self.tables, d_model=width
        )
        if isinstance(self.item_encoder, EventFeature):
            kind = config.item_encoder["type"]
            raise ConfigError(
                f"item encoder {kind!r}: says nothing of items, so every item would be the same; "
                "put it into a sum beside an encoder of items: {type: sum, parts: {item: {type: "
                f"id}}, more: {{type: {kind}}}}}}}"
            )
        self.input_norm = nn.LayerNorm(width) if config.input_norm else nn.Identity()
        self.input_dropout = nn.Dropout(config.input_dropout)
        tokens, self.fronts = self.item_encoder.tokens_per_item, self.item_encoder.fronts
        if self.fronts and tokens > 1:
            raise ConfigError(
                "item encoder: a token before the events (token: true) goes with one token per "
                f"item, and this encoder has {tokens}; leave it out"
            )
        self.backbone: Backbone = build_part(
            "backbone",
            BACKBONES,
            config.backbone,
            d_model=width,
            # The history, and the codes of the next item but its last, which nothing is read from.
            max_length=config.max_history * tokens + tokens - 1 + self.fronts,
        )
        self.head: Head = build_part(
            "head",
            HEADS,
            config.head,
            tables=self.tables,
            encoder=self.item_encoder,
            d_model=width,
        )
        if config.initial == "xavier":
            xavier_normal(self)
        self._checked_trie: PrefixTrie | None = None
        self.post_init()
        self._no_split_modules = self.backbone.layer_classes

    @property
    def asks_when(self) -> bool:
        """Whether a part reads when the item to be predicted is consumed."""
        known = getattr(self.backbone, "times", "none") == "request"
        return known or "query_time" in self.item_encoder.reads

    @property
    def asks_which_action(self) -> bool:
        """Whether a part reads the action of the item to be predicted."""
        return "query_action" in self.item_encoder.reads

    @property
    def reads_times(self) -> bool:
        """Whether a part reads the time of events."""
        return self.backbone.spec.uses_time or "event_time" in self.item_encoder.reads

    def get_input_embeddings(self) -> Any:
        """None: items come in through the item encoder."""
        return None

    def _init_weights(self, module: nn.Module) -> None:
        """Each part initialises itself; nothing is drawn again here."""

    def forward(
        self,
        items: torch.Tensor,
        mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        event_time: torch.Tensor | None = None,
        query_time: torch.Tensor | None = None,
        action: torch.Tensor | None = None,
        query_action: torch.Tensor | None = None,
        user: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> RecommenderOutput:
        """Encode histories, and score the labelled positions.

        Args:
            items: int64 `[B, S]` item numbers, right padded with any valid number.
            mask: bool `[B, S]`, True at real items.
            labels: int64 `[B, S]`, the next item at each position, -100 where there is none.
            event_time: int64 `[B, S]` seconds.
            query_time: int64 `[B, S]` seconds, time of the next event.
            action: int64 `[B, S]`.
            query_action: int64 `[B, S]`, action of the next event, 0 where it is not known.
            user: int64 `[B, S]`, row of the user's features.
            return_dict: always a `RecommenderOutput`; accepted because trainers pass it.
        """
        meta = SequenceMeta.from_mask(
            mask,
            event_time=event_time,
            query_time=query_time,
            action=action,
            query_action=query_action,
            user=user,
        )
        if labels is not None and self.head.reads_tokens:
            return RecommenderOutput(loss=self._token_loss(items, meta, labels))
        hidden = self.backbone(*self._embed(items, meta))
        # An item's state is that of its last token.
        hidden = hidden.unflatten(1, (items.shape[1] + self.fronts, -1))[:, :, -1]
        loss = None
        if labels is not None:
            targets, actions = self.asked(
                items, mask, labels, action=action, query_action=query_action
            )
            known = targets >= 0
            actions = None if actions is None else actions[known]
            seen = self._seen(items, mask, labels, known)
            loss = self.head.event_loss(hidden[known], targets[known], actions, seen=seen)
        return RecommenderOutput(loss=loss, hidden=hidden[:, self.fronts :])

    def _seen(
        self,
        items: torch.Tensor,
        mask: torch.Tensor,
        labels: torch.Tensor,
        known: torch.Tensor,
    ) -> Seen | None:
        """What else is in the rows of the states `known`, for a head that avoids it."""
        if not self.head.avoids_seen:
            return None
        return Seen(torch.cat([items.masked_fill(~mask, -1), labels], 1), known)

    def asked(
        self,
        items: torch.Tensor,
        mask: torch.Tensor,
        labels: torch.Tensor,
        *,
        action: torch.Tensor | None = None,
        query_action: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What every token is to predict, and the actions of these events where they are known.

        Both int64 `[B, S]`, as `forward` is given them; `[B, 1 + S]` where a token before the
        events predicts the first one. Rows without a label ask for nothing.
        """
        if not self.fronts:
            return labels, query_action
        first = mask.long().argmax(1, keepdim=True)
        rows = (labels >= 0).any(1, keepdim=True)
        targets = torch.cat([items.gather(1, first).masked_fill(~rows, -100), labels], 1)
        if query_action is None:
            return targets, None
        done = torch.zeros_like(first) if action is None else action.gather(1, first)
        return targets, torch.cat([done, query_action], 1)

    def _embed(self, items: torch.Tensor, meta: SequenceMeta) -> tuple[torch.Tensor, SequenceMeta]:
        """What the backbone reads of items `[B, S]`: tokens `[B, S * t, D]` and their metadata."""
        vectors = self.item_encoder(items[meta.mask])
        events = self.item_encoder.events(meta)
        if events is not None:
            # What is known of an event joins its item's last token: before, the item is still
            # being predicted.
            each = self.item_encoder.tokens_per_item
            whole = vectors.view(len(vectors), each, self.config.d_model)
            complete = whole[:, -1:] + events[meta.mask].unsqueeze(1)
            vectors = torch.cat([whole[:, :-1], complete], 1).view_as(vectors)
        real = self.input_dropout(self.input_norm(vectors))
        embeddings = real.new_zeros(*items.shape, *real.shape[1:]).index_put((meta.mask,), real)
        tokens = self.item_encoder.tokens_per_item
        front = self.item_encoder.front(meta)
        if front is not None:
            token = self.input_dropout(self.input_norm(front)).to(embeddings.dtype)
            return torch.cat([token.unsqueeze(1), embeddings], 1), meta.fronted()
        if tokens == 1:
            return embeddings, meta
        return embeddings.flatten(1, 2), meta.per_code(tokens)

    def _token(self, code: torch.Tensor, level: int) -> torch.Tensor:
        """What the backbone reads of codes `[B, W]` of one level, `[B, W, D]`."""
        return self.input_dropout(self.input_norm(self.item_encoder.token(code, level)))

    def _token_loss(
        self, items: torch.Tensor, meta: SequenceMeta, labels: torch.Tensor
    ) -> torch.Tensor:
        """The loss of every code of every labelled item, given all tokens before it.

        The last label of a row is not among its items; its codes are appended to them.
        """
        known = labels >= 0
        other = known[:, :-1] & meta.mask[:, 1:] & (labels[:, :-1] != items[:, 1:])
        if bool(other.any()):
            row, column = other.nonzero()[0].tolist()
            raise ConfigError(
                f"row {row} of the batch: the label at position {column} is item "
                f"{int(labels[row, column])}, but item {int(items[row, column + 1])} follows; a "
                "model over code tokens is trained on the items of the row itself"
            )
        last = meta.last().unsqueeze(1)
        newest = meta.next_item(0)
        newest.mask = known.gather(1, last)
        longer = torch.cat([items, items[:, :1]], 1).scatter(
            1, last + 1, labels.gather(1, last).clamp_min(0)
        )
        embeddings, tokens = self._embed(longer, meta.insert(newest))
        levels = self.item_encoder.tokens_per_item
        used = embeddings.shape[1] - 1  # nothing is predicted from a last code
        row, column = known.nonzero().unbind(1)
        states = self.backbone.block_states(
            embeddings[:, :used],
            tokens.until(used),
            row=row,
            start=(column + 1) * levels,
            length=levels,
        )
        actions = None if meta.query_action is None else meta.query_action[known]
        seen = self._seen(items, meta.mask, labels, known)
        return self.head.event_loss(states, labels[known], actions, seen=seen)

    def encode(
        self, items: torch.Tensor, mask: torch.Tensor, **meta: Any
    ) -> torch.Tensor | CodeDecoder:
        """What the head's search reads of the histories, computed once for any number of searches.

        Returns:
            States `[B, D]`, or for a head that reads tokens the decoder of the users.

        Raises:
            ConfigError: for an empty history, naming its row.
        """
        length = mask.sum(1)
        if bool((length == 0).any()):
            row = int((length == 0).nonzero()[0])
            raise ConfigError(
                f"history {row} of the batch is empty; a recommender needs at least one item"
            )
        context = self.backbone.encode(*self._embed(items, SequenceMeta.from_mask(mask, **meta)))
        if not self.head.reads_tokens:
            return context.last
        return CodeDecoder(
            backbone=self.backbone,
            head=cast(CodeScores, self.head),
            token=self._token,
            context=context,
        )

    @torch.inference_mode()
    def search(
        self,
        batch: Mapping[str, torch.Tensor],
        *,
        k: int,
        trie: PrefixTrie | None = None,
        exclude: torch.Tensor | None = None,
        filter: Filter | None = None,
        beam_width: int | None = None,
        exact: bool = False,
        renormalize: bool = False,
    ) -> SearchResult:
        """The best `k` next items of each history, best first.

        Call `eval()` first: in training mode dropout makes the lists random. Give histories of at
        most `config.max_history` items, the latest ones, as `genrec.data.batch` cuts them.

        Args:
            batch: `items` int64 `[B, S]`, `mask` bool `[B, S]`, and where the data has them
                `event_time`, `query_time`, `action`, `query_action`, `user`; other keys are left
                alone.
            k: number of items.
            trie: the vocabulary's prefix trie, for heads that score codes.
            exclude: int64 `[B, E]` items never returned, padded with -1.
            filter: the items that may be returned, for all users or per user; made for the trie,
                or for `config.num_items` where the head needs no trie.
            beam_width: for heads that search by beams; `max(50, 2 k)` by default.
            exact: widen the search until the result is proven exact.
            renormalize: for heads that search by beams: give no probability to codes that do not
                exist, see `genrec.decoding.beam_search`.

        Raises:
            ArtefactError: if the trie is of another vocabulary.
            ConfigError: if the filter is of another trie or batch.
        """
        if trie is not None and self.head.uses_trie:
            self.check_trie(trie)
        meta = {key: batch[key] for key in META_KEYS if key in batch}
        return self.head.search(
            self.encode(batch["items"], batch["mask"], **meta),
            k=k,
            trie=trie,
            exclude=exclude,
            filter=filter,
            beam_width=beam_width or default_beam_width(k),
            exact=exact,
            renormalize=renormalize,
        )

    def check_vocabulary(self, fingerprint: str) -> None:
        """Raise ArtefactError unless the model was trained with the vocabulary `fingerprint`."""
        expected = self.config.vocabulary_fingerprint
        if expected and fingerprint != expected:
            raise ArtefactError(
                f"the model was trained with the SID vocabulary {expected}, but this one is "
                f"{fingerprint}; load the vocabulary of its run folder or train again"
            )

    def check_trie(self, trie: PrefixTrie) -> None:
        """See `ItemTables.check_trie`; once for a trie that is used again."""
        if trie is not self._checked_trie:
            self.tables.check_trie(trie)
            self._checked_trie = trie
