"""What every registered backbone must do; a new one is picked up by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from genrec.errors import ConfigError
from genrec.models import BACKBONES, Backbone, BeamState, SequenceMeta
from genrec.models.backbones import T5

WIDTH, LENGTH = 16, 12
LEVELS = 3  # codes of an item: two of them are fed when the third is predicted
VARIANTS = [
    *((name, {}) for name in BACKBONES),
    ("transformer", {"positions": "rotary"}),
    ("transformer", {"norm": "post", "scale_input": True}),
    ("hf", {"architecture": "llama", "heads": 4, "kv_heads": 2}),
    ("hf", {"architecture": "mistral", "config": {"sliding_window": 4}}),
    ("hf", {"architecture": "gpt2"}),
    ("hstu", {"times": "request", "concat_ua": True}),
    ("hstu", {"times": "none", "dqk": 3, "dv": 5}),
    ("fuxi-alpha", {"times": "request", "ffn": 24}),
    ("fuxi-alpha", {"times": "none", "scale_input": False}),
    ("fuxi-beta", {"times": "request"}),
    ("fuxi-beta", {"times": "none"}),
    ("tokenformer", {"windows": [2, 1], "layers": 3, "projection": True}),
]
# Times of four users' events, in seconds from minutes to years apart; the last is of a request.
GAPS = 10 ** (1.5 + 6.5 * torch.rand(4, LENGTH + 2, generator=torch.Generator().manual_seed(5)))
TIMES = 1_300_000_000 + GAPS.long().cumsum(1)


@pytest.fixture(params=VARIANTS, ids=lambda v: f"{v[0]}{v[1] or ''}")
def backbone(request: pytest.FixtureRequest) -> Backbone:
    name, options = request.param
    torch.manual_seed(0)
    return BACKBONES[name](d_model=WIDTH, max_length=LENGTH, **options).eval()


def timed(mask: torch.Tensor, users: Sequence[int] = range(4)) -> SequenceMeta:
    """The n-th real token of a row has the n-th time of its user, wherever padding stands."""
    place = (mask.long().cumsum(1) - 1).clamp_min(0)
    own = TIMES[list(users)[: len(mask)]]
    return SequenceMeta.from_mask(
        mask, event_time=own.gather(1, place), query_time=own.gather(1, place + 1)
    )


def full(batch: int, length: int, users: Sequence[int] = range(4)) -> SequenceMeta:
    return timed(torch.ones(batch, length, dtype=torch.bool), users)


def test_spec_names_width_and_length(backbone: Backbone) -> None:
    assert backbone.spec.d_model == WIDTH
    assert backbone.spec.max_length == LENGTH


def test_later_tokens_never_change_earlier_outputs(backbone: Backbone) -> None:
    x = torch.randn(3, 8, WIDTH)
    before = backbone(x, full(3, 8))
    for changed in range(1, 8):
        y = x.clone()
        y[:, changed:] = torch.randn(3, 8 - changed, WIDTH)
        after = backbone(y, full(3, 8))
        torch.testing.assert_close(after[:, :changed], before[:, :changed])
        assert not torch.allclose(after[:, changed], before[:, changed], atol=1e-4)


def test_earlier_tokens_matter(backbone: Backbone) -> None:
    x = torch.randn(1, 6, WIDTH)
    y = x.clone()
    y[0, 0] = torch.randn(WIDTH)
    assert not torch.allclose(backbone(x, full(1, 6))[0, -1], backbone(y, full(1, 6))[0, -1])


def asks(backbone: Backbone) -> bool:
    """Whether the backbone knows when the item to be predicted is consumed."""
    return getattr(backbone, "times", "none") == "request"


def test_times_matter_to_those_that_say_so(backbone: Backbone) -> None:
    x, meta = torch.randn(2, 6, WIDTH), full(2, 6)
    before = backbone(x, meta)
    event, query = meta.event_time.clone(), meta.query_time.clone()
    event[:, 0] -= 10**7
    query[:, -1] += 10**7
    for changed, read in (
        (replace(meta, event_time=event), backbone.spec.uses_time),
        (replace(meta, query_time=query), asks(backbone)),
    ):
        assert torch.equal(backbone(x, changed)[:, -1], before[:, -1]) == (not read)


def test_later_times_never_change_earlier_outputs(backbone: Backbone) -> None:
    x, meta = torch.randn(2, 7, WIDTH), full(2, 7)
    before = backbone(x, meta)
    event, query = meta.event_time.clone(), meta.query_time.clone()
    event[:, 4:] += 10**7
    query[:, 4:] += 10**7
    after = backbone(x, replace(meta, event_time=event, query_time=query))
    torch.testing.assert_close(after[:, :4], before[:, :4])


def test_missing_times_are_named(backbone: Backbone) -> None:
    meta = SequenceMeta.from_mask(torch.ones(1, 3, dtype=torch.bool))
    if not backbone.spec.uses_time:
        assert backbone(torch.randn(1, 3, WIDTH), meta).shape == (1, 3, WIDTH)
        return
    with pytest.raises(ConfigError, match="timestamps"):
        backbone(torch.randn(1, 3, WIDTH), meta)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(backbone: Backbone, side: str) -> None:
    x = torch.randn(2, 5, WIDTH)
    alone = backbone(x, full(2, 5))
    padding = torch.randn(2, 4, WIDTH)
    mask = torch.ones(2, 9, dtype=torch.bool)
    if side == "right":
        mask[:, 5:] = False
        padded = backbone(torch.cat([x, padding], 1), timed(mask))[:, :5]
    else:
        mask[:, :4] = False
        padded = backbone(torch.cat([padding, x], 1), timed(mask))[:, 4:]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-4)


def test_other_rows_of_the_batch_change_nothing(backbone: Backbone) -> None:
    x = torch.randn(4, 6, WIDTH)
    together = backbone(x, full(4, 6))
    for row in range(4):
        alone = backbone(x[row : row + 1], full(1, 6, users=[row]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_a_batch_of_nobody_is_empty(backbone: Backbone) -> None:
    embeddings, meta = code_tokens([1], columns=3)
    nobody = meta.select(torch.tensor([], dtype=torch.int64))
    assert backbone(embeddings[:0], nobody).shape == (0, 3, WIDTH)


def untrained(backbone: Backbone, states: torch.Tensor) -> set[str]:
    """Parameters without a gradient, or with one of zeros; rounding alone is far below 1e-5."""
    torch.manual_seed(1)
    # Not the sum of squares, which a norm at the end makes the same for every input.
    (states * torch.randn_like(states)).sum().backward()
    grads = {name: p.grad for name, p in backbone.named_parameters()}
    return {name for name, grad in grads.items() if grad is None or grad.abs().max() < 1e-5}


def test_every_parameter_gets_a_gradient(backbone: Backbone) -> None:
    expected = set()
    if isinstance(backbone, T5):
        # Over items its decoder reads one token, and a softmax over one key is 1 whatever it is.
        found = {name for name, _ in backbone.named_parameters() if name.startswith("decoder.")}
        attend = ("SelfAttention.q.", "SelfAttention.k.", ".relative_attention_bias.")
        expected = {name for name in found if any(part in name for part in attend)}
        assert expected
    elif backbone.spec.style == "enc_dec":
        pytest.skip("what one token cannot train is its own affair; the next test asks for all")
    backbone.train()
    assert untrained(backbone, backbone(torch.randn(2, 6, WIDTH), full(2, 6))) == expected


def test_every_parameter_gets_a_gradient_over_codes(backbone: Backbone) -> None:
    backbone.train()
    embeddings, meta = code_tokens([4, 4], columns=12)
    row, start = torch.tensor([0, 0, 1]), torch.tensor([3, 6, 6])
    states = backbone.block_states(embeddings, meta, row=row, start=start, length=LEVELS)
    assert untrained(backbone, states) == set()


def test_bfloat16_runs_and_is_close(backbone: Backbone) -> None:
    x = torch.randn(2, 6, WIDTH)
    exact = backbone(x, full(2, 6))
    with torch.autocast("cpu", torch.bfloat16):
        rough = backbone(x, full(2, 6))
    assert torch.isfinite(rough).all()
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)
    (rough.float() ** 2).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in backbone.parameters() if p.requires_grad)


def test_too_long_a_sequence_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match=f"max_length={LENGTH}"):
        backbone(torch.randn(1, LENGTH + 1, WIDTH), full(1, LENGTH + 1))


def code_tokens(
    lengths: list[int], *, columns: int, side: str = "right"
) -> tuple[torch.Tensor, SequenceMeta]:
    """Random code tokens: `lengths` items a row, LEVELS tokens an item, padded to `columns`."""
    generator = torch.Generator().manual_seed(3)
    real = torch.tensor(lengths)[:, None] * LEVELS
    column = torch.arange(columns)
    mask = column < real if side == "right" else column >= columns - real
    made = SequenceMeta.from_mask(mask)
    item = made.position // LEVELS
    times = torch.randint(1, 10**6, (len(lengths), columns + 1), generator=generator).cumsum(1)
    level = made.position % LEVELS
    meta = SequenceMeta(
        mask=mask,
        position=made.position,
        item_index=item,
        level=level,
        event_time=times.gather(1, item),
        query_time=times.gather(1, item + (level == LEVELS - 1)),
        action=torch.zeros_like(item),
        right_padded=made.right_padded,
    )
    return torch.randn(len(lengths), columns, WIDTH, generator=generator), meta


def one_sequence(
    backbone: Backbone, context: torch.Tensor, meta: SequenceMeta, path: list[torch.Tensor]
) -> torch.Tensor:
    """The states that predict the tokens of `path` and the one after: a pass without beams.

    Args:
        context: `[S, D]`, one user's real tokens.
        meta: of these tokens, `[1, S]`.
        path: tokens `[D]`.
    """
    for level in range(len(path)):
        meta = meta.join(meta_of_step(meta, level))
    start = torch.tensor([len(context)])
    tokens = torch.stack([*context, *path])[None]
    return backbone.block_states(
        tokens, meta, row=torch.tensor([0]), start=start, length=len(path) + 1
    )[0]


def meta_of_step(meta: SequenceMeta, level: int) -> SequenceMeta:
    """What the token of `level` of the next item is told, given all tokens before, `[1, S]`."""
    assert meta.item_index is not None and meta.query_time is not None
    newest = 1 if level == 0 else 0
    return SequenceMeta(
        mask=torch.tensor([[True]]),
        position=meta.position[:, -1:] + 1,
        item_index=meta.item_index[:, -1:] + newest,
        level=torch.tensor([[level]]),
        event_time=meta.query_time[:, -1:],
        query_time=meta.query_time[:, -1:],
        action=torch.tensor([[0]]),
    )


def real_part(
    embeddings: torch.Tensor, meta: SequenceMeta, user: int
) -> tuple[torch.Tensor, SequenceMeta]:
    """One user's tokens without padding."""
    seen = meta.mask[user]
    return embeddings[user, seen], meta.map(lambda _, value: value[user : user + 1, seen])


@torch.no_grad()
def decode(
    backbone: Backbone, embeddings: torch.Tensor, meta: SequenceMeta, *, width: int, seed: int = 0
) -> tuple[torch.Tensor, list[torch.Tensor], list[list[list[torch.Tensor]]]]:
    """Decode LEVELS - 1 steps with random tokens and parents.

    Returns:
        The state after the context `[B, D]`, the states `[B, W, D]` of each step, and the path of
        tokens of each beam at the last step.
    """
    generator = torch.Generator().manual_seed(seed)
    users = len(embeddings)
    context = backbone.encode(embeddings, meta)
    beams, paths = BeamState(), [[[]] for _ in range(users)]
    states, kept = [], 1
    for level in range(LEVELS - 1):
        parent = torch.randint(0, kept, (users, width), generator=generator)
        tokens = torch.randn(users, width, WIDTH, generator=generator)
        paths = [
            [[*paths[user][int(parent[user, beam])], tokens[user, beam]] for beam in range(width)]
            for user in range(users)
        ]
        hidden, beams = backbone.decode_step(tokens, meta.next_item(level), context, beams, parent)
        assert hidden.shape == (users, width, WIDTH)
        states.append(hidden)
        kept = width
    return context.last, states, paths


@pytest.mark.parametrize("side", ["left", "right"])
def test_decoding_is_the_full_pass(backbone: Backbone, side: str) -> None:
    """Every beam has the state of its own sequence, whatever parents it had."""
    embeddings, meta = code_tokens([3, 1, 2], columns=9, side=side)
    last, states, paths = decode(backbone, embeddings, meta, width=4)
    for user in range(3):
        context, own = real_part(embeddings, meta, user)
        for beam in range(4):
            expected = one_sequence(backbone, context, own, paths[user][beam])
            torch.testing.assert_close(last[user], expected[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(states[-1][user, beam], expected[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 9, 64])
def test_beams_have_the_states_of_users_of_their_own(backbone: Backbone, width: int) -> None:
    embeddings, meta = code_tokens([2, 3], columns=9)
    generator = torch.Generator().manual_seed(width)
    tokens = [torch.randn(2, width, WIDTH, generator=generator) for _ in range(2)]
    parent = torch.randint(0, width, (2, width), generator=generator)
    users = torch.arange(2).repeat_interleave(width)
    with torch.no_grad():
        context = backbone.encode(embeddings, meta)
        alone = backbone.encode(embeddings[users], meta.select(users))
        start = torch.zeros(2, width, dtype=torch.int64)
        one, beams = backbone.decode_step(tokens[0], meta.next_item(0), context, BeamState(), start)
        two, _ = backbone.decode_step(tokens[1], meta.next_item(1), context, beams, parent)
        each = meta.select(users)
        first = tokens[0].gather(1, parent.unsqueeze(-1).expand_as(tokens[0])).flatten(0, 1)
        none = torch.zeros(2 * width, 1, dtype=torch.int64)
        _, own = backbone.decode_step(first[:, None], each.next_item(0), alone, BeamState(), none)
        expected, _ = backbone.decode_step(
            tokens[1].flatten(0, 1)[:, None], each.next_item(1), alone, own, none
        )
    torch.testing.assert_close(two.flatten(0, 1), expected[:, 0], atol=1e-5, rtol=1e-5)
    # A beam's state is its token's, not its column's.
    order = torch.randperm(width, generator=generator)
    with torch.no_grad():
        mixed, _ = backbone.decode_step(
            tokens[0][:, order], meta.next_item(0), context, BeamState(), start
        )
    torch.testing.assert_close(mixed, one[:, order], atol=1e-5, rtol=1e-5)


def test_some_users_of_a_context_decode_as_alone(backbone: Backbone) -> None:
    embeddings, meta = code_tokens([3, 1, 2], columns=9)
    rows = torch.tensor([2, 0])
    tokens = torch.randn(3, 5, WIDTH)
    start = torch.zeros(3, 5, dtype=torch.int64)
    step = meta.next_item(0)
    with torch.no_grad():
        context = backbone.encode(embeddings, meta)
        everyone, _ = backbone.decode_step(tokens, step, context, BeamState(), start)
        some, _ = backbone.decode_step(
            tokens[rows], step.select(rows), context.select(rows), BeamState(), start[rows]
        )
    torch.testing.assert_close(some, everyone[rows], atol=1e-5, rtol=1e-5)


def test_without_a_cache_the_whole_pass_gives_the_same(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backbone.spec.style != "stream":
        pytest.skip("decoding is no longer history for it")
    embeddings, meta = code_tokens([3, 1, 2], columns=9)
    last, states, _ = decode(backbone, embeddings, meta, width=3)
    for name in ("encode", "decode_step"):
        monkeypatch.setattr(type(backbone), name, getattr(Backbone, name))
    slow_last, slow_states, _ = decode(backbone, embeddings, meta, width=3)
    torch.testing.assert_close(last, slow_last, atol=1e-5, rtol=1e-5)
    for one, two in zip(states, slow_states, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_blocks_are_predicted_from_what_stands_before_them(backbone: Backbone) -> None:
    """Changing a block's tokens, or later ones, changes only what is predicted after them."""
    embeddings, meta = code_tokens([4, 3], columns=12)
    where = {
        "row": torch.tensor([0, 1, 0]),
        "start": torch.tensor([3, 6, 6]),
        "length": LEVELS,
    }
    before = backbone.block_states(embeddings, meta, **where)
    assert before.shape == (3, LEVELS, WIDTH)
    changed = embeddings.clone()
    changed[0, 7:] = torch.randn(5, WIDTH)
    after = backbone.block_states(changed, meta, **where)
    torch.testing.assert_close(after[:2], before[:2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[2, :2], before[2, :2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(after[2, 2], before[2, 2], atol=1e-4)


def test_the_time_of_an_item_waits_for_its_last_code(backbone: Backbone) -> None:
    """Who does not know the request time must not learn it from the codes of the item predicted."""
    if asks(backbone):
        pytest.skip("it knows the request time")
    embeddings, meta = code_tokens([4, 4], columns=12)
    before = backbone(embeddings, meta)
    moved = 10**7 * (meta.item_index >= 2)
    later = replace(meta, event_time=meta.event_time + moved, query_time=meta.query_time + 10**7)
    after = backbone(embeddings, later)
    last = 3 * LEVELS - 1  # the last code of the item whose time has changed
    torch.testing.assert_close(after[:, :last], before[:, :last])
    same = torch.allclose(after[:, last], before[:, last], atol=1e-6)
    assert same == (not backbone.spec.uses_time)
    users, width = torch.zeros(2, 1, dtype=torch.int64), torch.randn(2, 1, WIDTH)
    with torch.no_grad():
        states = []
        for seen in (meta, replace(meta, query_time=meta.query_time + 10**7)):
            context = backbone.encode(embeddings[:, :9], seen.map(lambda _, value: value[:, :9]))
            step = context.meta.next_item(0)
            states.append(backbone.decode_step(width, step, context, BeamState(), users)[0])
    torch.testing.assert_close(*states)


class Largest(TorchDispatchMode):
    """Watches how many numbers the largest tensor holds that is made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, torch.Tensor):
                size = one.untyped_storage().nbytes() // one.element_size()
                self.numbers = max(self.numbers, size)
        return made


def test_a_cache_is_never_copied_for_each_beam(backbone: Backbone) -> None:
    embeddings, meta = code_tokens([3], columns=9)
    width = 64
    copies = width * embeddings[0].numel()
    with torch.no_grad():
        context = backbone.encode(embeddings, meta)
        beams, parent = BeamState(), torch.zeros(1, width, dtype=torch.int64)
        tokens = torch.randn(2, 1, width, WIDTH)
        with Largest() as seen:
            for level in range(2):
                step = meta.next_item(level)
                _, beams = backbone.decode_step(tokens[level], step, context, beams, parent)
                parent = torch.randint(0, width, (1, width))
    assert (seen.numbers < copies) == (backbone.spec.cache == "kv")


def test_too_many_steps_are_refused(backbone: Backbone) -> None:
    embeddings, meta = code_tokens([4], columns=LENGTH)
    with torch.no_grad():
        context = backbone.encode(embeddings, meta)
        with pytest.raises(ConfigError, match=f"max_length={LENGTH}"):
            backbone.decode_step(
                torch.randn(1, 2, WIDTH),
                meta.next_item(0),
                context,
                BeamState(),
                torch.zeros(1, 2, dtype=torch.int64),
            )
