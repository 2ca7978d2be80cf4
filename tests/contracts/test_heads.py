"""What every registered head must do; a new one is picked up by itself."""

from __future__ import annotations

import pytest
import torch

from genrec.decoding import Filter, PrefixTrie
from genrec.errors import ConfigError
from genrec.models import (
    HEADS,
    Head,
    IdEmbedding,
    ItemEncoder,
    ItemTables,
    SidEmbedding,
    SidTokens,
)

ITEMS, WIDTH, SIZES, DIM = 60, 12, (5, 4, 6), 7
OF_CONTENT = {"type": "dense", "items": "content", "similarity": "cosine"}
VARIANTS = [
    *((name, {}) for name in HEADS),
    ("parallel", {"normalize": "items"}),
    ("parallel", {"tied": False, "label_smoothing": 0.1}),
    ("autoregressive", {"temperature": 0.1}),
    ("dense", {"similarity": "cosine", "temperature": 0.1}),
    ("dense", {"items": "table"}),
    ("dense", {"loss": "sampled", "negatives": 20}),
    ("dense", {"loss": "sampled", "negatives": 20, "shared": False, "log_q": False}),
    ("dense", {"loss": "infonce", "negatives": 20, "in_batch": 4, "negative_power": 0.5}),
    ("dense", {"loss": "bce"}),
    ("tokens", {"tied": True, "temperature": 0.1}),
    ("regression", {"loss": "mse"}),
    ("dense", {"items": "content"}),
    ("liger", {"parts": {"codes": {"type": "parallel"}, "items": {"type": "dense"}}}),
    ("liger", {"parts": {"codes": {"type": "tokens"}, "items": OF_CONTENT}, "weight": 0.5}),
]


def values(items: int = ITEMS, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(0, k, (items,), generator=generator) for k in SIZES], 1)
    return {
        "codes": codes.int(),
        "vectors": torch.randn(items, DIM, generator=generator),
        "tie_order": torch.randperm(items, generator=generator),
        "counts": torch.randint(1, 9, (items,), generator=generator).float(),
    }


def build(
    variant: tuple[str, dict],
    *,
    items: int = ITEMS,
    seed: int = 0,
    encoder: type[ItemEncoder] | None = None,
) -> Head:
    name, options = variant
    torch.manual_seed(0)
    tables = ItemTables(num_items=items, codebook_sizes=SIZES, vector_dim=DIM)
    tables.fill(**values(items, seed))
    tokens = HEADS[name].reads_tokens or "'tokens'" in str(options)
    made_of = encoder or (SidTokens if tokens else SidEmbedding)
    embeddings = made_of(tables=tables, d_model=WIDTH)
    made = HEADS[name](tables=tables, encoder=embeddings, d_model=WIDTH, **options).eval()
    for parameter in embeddings.parameters():
        torch.nn.init.normal_(parameter)
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


@pytest.fixture(params=VARIANTS, ids=lambda v: f"{v[0]}{v[1] or ''}")
def variant(request: pytest.FixtureRequest) -> tuple[str, dict]:
    return request.param


@pytest.fixture
def head(variant: tuple[str, dict]) -> Head:
    return build(variant)


class Steps:
    """In place of a backbone: a state for all that came before, plus the codes read since."""

    returns_logits = True

    def __init__(self, head: Head, states: torch.Tensor) -> None:
        self.head, self.states, self.last = head, states, states

    def first(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.head.level_logits(0, self.states), torch.zeros_like(self.states[:, None])

    def next(
        self, state: torch.Tensor, parent: torch.Tensor, code: torch.Tensor, level: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.arange(len(state))[:, None]
        read = state[rows, parent] + self.head.encoder.token(code, level - 1)
        return self.head.level_logits(level, self.states[:, None] + read), read

    def select(self, rows: torch.Tensor) -> Steps:
        return Steps(self.head, self.states[rows])


def of_users(head: Head, hidden: torch.Tensor) -> torch.Tensor | Steps:
    """What the head's search reads of states `[B, D]`."""
    return Steps(head, hidden) if head.reads_tokens else hidden


def before_targets(head: Head, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What the head's loss reads of states `[M, D]`."""
    if not head.reads_tokens:
        return hidden
    codes = head.tables.codes[targets]
    read = [head.encoder.token(codes[:, level], level) for level in range(len(SIZES) - 1)]
    steps = torch.stack([torch.zeros_like(hidden), *read], 1).cumsum(1)
    return hidden[:, None] + steps


@pytest.fixture
def trie(head: Head) -> PrefixTrie:
    return PrefixTrie.from_codes(head.tables.codes, SIZES, tie_order=head.tables.tie_order)


def test_loss_is_a_finite_scalar_with_gradients(head: Head) -> None:
    hidden = torch.randn(9, WIDTH, requires_grad=True)
    targets = torch.randint(0, ITEMS, (9,))
    loss = head.loss(before_targets(head, hidden, targets), targets)
    assert loss.dim() == 0
    assert torch.isfinite(loss)
    loss.backward()
    assert hidden.grad is not None
    assert (hidden.grad.abs().sum(1) > 0).all()


def learned(head: Head, targets: torch.Tensor) -> torch.Tensor:
    """States `[M, D]`, one of each target, that have descended the loss with all weights."""
    head.train()
    hidden = torch.randn(len(targets), WIDTH, requires_grad=True)
    optimiser = torch.optim.Adam([hidden, *head.parameters(), *head.encoder.parameters()], lr=0.05)
    for step in range(150):
        head.seed_draws(step)
        optimiser.zero_grad()
        head.loss(before_targets(head, hidden, targets), targets).backward()
        optimiser.step()
    head.eval()
    return hidden.detach()


def test_each_state_learns_its_own_target(head: Head, trie: PrefixTrie) -> None:
    """Descending the loss of a batch brings the target of each state to the top of its list."""
    _, group, size = head.tables.codes.unique(dim=0, return_inverse=True, return_counts=True)
    targets = (size[group] == 1).nonzero().flatten()[:4]  # no other item has their codes
    found = head.search(of_users(head, learned(head, targets)), k=5, trie=trie, exact=True)
    assert torch.equal(found.items[:, 0], targets)


def seeded_loss(head: Head, hidden: torch.Tensor, targets: torch.Tensor, seed: int) -> float:
    head.seed_draws(seed)
    return head.loss(before_targets(head, hidden, targets), targets).item()


def draws(head: Head, hidden: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether the loss is another one each time, or for another seed."""
    head.draw_seed = None
    read = before_targets(head, hidden, targets)
    found = {head.loss(read, targets).item() for _ in range(3)}
    return len(found | {seeded_loss(head, hidden, targets, seed) for seed in range(3)}) > 1


def test_a_loss_is_the_mean_of_those_of_its_states(head: Head) -> None:
    hidden, targets = torch.randn(6, WIDTH), torch.tensor([5, 3, 3, 20, 41, 0])
    together = head.unsampled_loss(before_targets(head, hidden, targets), targets)
    alone = [
        head.unsampled_loss(before_targets(head, hidden[n : n + 1], own), own)
        for n, own in enumerate(targets.split(1))
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_twice_the_batch_is_the_same_loss(head: Head) -> None:
    hidden, targets = torch.randn(8, WIDTH), torch.arange(8) * 7
    drawn = draws(head, hidden, targets)
    seeds = range(40 if drawn else 1)
    once, twice = (
        sum(seeded_loss(head, hidden.repeat(n, 1), targets.repeat(n), seed) for seed in seeds)
        for n in (1, 2)
    )
    assert twice == pytest.approx(once, rel=0.2 if drawn else 1e-5)


def test_a_seed_decides_what_a_loss_draws(head: Head) -> None:
    hidden, targets = torch.randn(8, WIDTH), torch.arange(8) * 7
    found = {seed: seeded_loss(head, hidden, targets, seed) for seed in (1, 2)}
    torch.manual_seed(99)
    assert found == {seed: seeded_loss(head, hidden, targets, seed) for seed in (1, 2)}
    assert (found[1] != found[2]) == draws(head, hidden, targets)


def test_a_target_is_not_drawn_against_itself(variant: tuple[str, dict]) -> None:
    """Of three items, one far ahead of the others: what is drawn makes no difference any more."""
    head, target = build(variant, items=3), torch.tensor([1])
    if not draws(head, torch.randn(1, WIDTH), target):
        pytest.skip("draws nothing")
    hidden = learned(head, target)
    losses = [seeded_loss(head, hidden, target, seed) for seed in range(30)]
    assert max(losses) - min(losses) < 0.02


def test_tables_filled_later_are_read(variant: tuple[str, dict], trie: PrefixTrie) -> None:
    """As where a checkpoint is loaded, or a catalogue refreshed, after something was asked."""
    head, other = build(variant), build(variant, seed=1)
    hidden, targets = torch.randn(6, WIDTH), torch.tensor([5, 3, 3, 20, 41, 0])
    head.search(of_users(head, hidden), k=5, trie=trie, exact=True)
    head.loss(before_targets(head, hidden, targets), targets)
    head.tables.fill(**values(seed=1))
    other.load_state_dict(head.state_dict())
    other.encoder.load_state_dict(head.encoder.state_dict())
    tables = other.tables
    trie = PrefixTrie.from_codes(tables.codes, SIZES, tie_order=tables.tie_order)
    assert seeded_loss(head, hidden, targets, 0) == pytest.approx(
        seeded_loss(other, hidden, targets, 0), rel=1e-5
    )
    ours, theirs = (
        each.search(of_users(each, hidden), k=5, trie=trie, exact=True) for each in (head, other)
    )
    assert torch.equal(ours.items, theirs.items)
    torch.testing.assert_close(ours.scores, theirs.scores)


@pytest.mark.parametrize("encoder", [IdEmbedding, SidEmbedding, SidTokens])
def test_an_encoder_works_or_is_refused_at_once(
    variant: tuple[str, dict], encoder: type[ItemEncoder]
) -> None:
    try:
        head = build(variant, encoder=encoder)
    except ConfigError as error:
        assert "head '" in str(error)
        return
    hidden, targets = torch.randn(4, WIDTH), torch.arange(4) * 7
    assert torch.isfinite(head.loss(before_targets(head, hidden, targets), targets))
    codes, order = head.tables.codes, head.tables.tie_order
    trie = PrefixTrie.from_codes(codes, SIZES, tie_order=order)
    assert head.search(of_users(head, hidden), k=3, trie=trie).items.shape == (4, 3)


def test_search_ranks_by_score_and_repeats_itself(head: Head, trie: PrefixTrie) -> None:
    hidden = torch.randn(4, WIDTH)
    found = head.search(of_users(head, hidden), k=ITEMS, trie=trie, exact=True)
    again = head.search(of_users(head, hidden), k=ITEMS, trie=trie, exact=True)
    assert torch.equal(found.items, again.items)
    assert found.certified.all()
    assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()
    for row in found.items:
        assert sorted(row.tolist()) == list(range(ITEMS))


def test_search_ranks_the_whole_catalog_as_the_loss_does(head: Head, trie: PrefixTrie) -> None:
    """Brute force: the loss of every item as the target, one at a time, against one search."""
    ranking = head.items if head.ranks_items else head
    hidden = torch.randn(3, WIDTH)
    for options in ({"exact": True}, {"beam_width": ITEMS}):
        found = head.search(of_users(head, hidden), k=ITEMS, trie=trie, **options)
        assert found.certified.all()
        for row in range(3):
            state = hidden[row : row + 1]
            every = torch.arange(ITEMS).view(-1, 1)
            losses = torch.stack(
                [ranking.unsampled_loss(before_targets(ranking, state, i), i) for i in every]
            )
            assert sorted(found.items[row].tolist()) == list(range(ITEMS))
            assert (losses[found.items[row]].diff() > -1e-5).all()


def test_excluded_items_never_come_back(head: Head, trie: PrefixTrie) -> None:
    hidden = torch.randn(3, WIDTH)
    best = head.search(of_users(head, hidden), k=4, trie=trie, exact=True).items
    rest = head.search(of_users(head, hidden), k=10, trie=trie, exact=True, exclude=best).items
    assert (rest >= 0).all()
    for row in range(3):
        assert not set(rest[row].tolist()) & set(best[row].tolist())


def test_other_users_of_the_batch_change_nothing(head: Head, trie: PrefixTrie) -> None:
    hidden = torch.randn(5, WIDTH)
    together = head.search(of_users(head, hidden), k=8, trie=trie, exact=True)
    for row in range(5):
        alone = head.search(of_users(head, hidden[row : row + 1]), k=8, trie=trie, exact=True)
        torch.testing.assert_close(alone.scores[0], together.scores[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("k", [6, ITEMS])
@pytest.mark.parametrize("exact", [True, False])
def test_a_filtered_list_is_the_filtered_ranking(
    head: Head, trie: PrefixTrie, k: int, exact: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    users = 7
    hidden = torch.randn(users, WIDTH, generator=generator)
    shared = torch.rand(ITEMS, generator=generator) < 0.5
    own = torch.rand(users, ITEMS, generator=generator) < torch.linspace(0.02, 1, users)[:, None]
    own[0] = False  # nothing is left for the first user
    exclude = torch.randint(-1, ITEMS, (users, 5), generator=generator)
    ranking = head.search(of_users(head, hidden), k=ITEMS, trie=trie, exact=True)
    of = trie if head.uses_trie else ITEMS
    one, each = Filter.from_mask(of, shared), Filter.from_mask(of, own)
    for some, allowed in (
        (one, shared.expand(users, -1)),
        (each, own),
        (one & each, shared & own),
    ):
        found = head.search(
            of_users(head, hidden),
            k=k,
            trie=trie,
            exclude=exclude,
            filter=some,
            beam_width=ITEMS,
            exact=exact,
        )
        for row in range(users):
            left = [
                (item, score)
                for item, score in zip(
                    ranking.items[row].tolist(), ranking.scores[row].tolist(), strict=True
                )
                if allowed[row, item] and item not in exclude[row].tolist()
            ][:k]
            assert found.items[row].tolist() == [i for i, _ in left] + [-1] * (k - len(left))
            torch.testing.assert_close(
                found.scores[row, : len(left)],
                torch.tensor([score for _, score in left], dtype=torch.float32),
                atol=1e-4,
                rtol=1e-4,
            )
            alone = head.search(
                of_users(head, hidden[row : row + 1]),
                k=k,
                trie=trie,
                exclude=exclude[row : row + 1],
                filter=some.select(slice(row, row + 1)),
                beam_width=ITEMS,
                exact=exact,
            )
            assert torch.equal(alone.items[0], found.items[row])


def test_a_filter_of_the_trie_serves_a_head_without_one(head: Head, trie: PrefixTrie) -> None:
    hidden = torch.randn(2, WIDTH)
    some = Filter.deny(trie, torch.arange(0, ITEMS, 2))
    found = head.search(of_users(head, hidden), k=ITEMS, trie=trie, filter=some, exact=True)
    for row in found.items.tolist():
        assert sorted(row) == [-1] * (ITEMS // 2) + list(range(1, ITEMS, 2))


def test_renormalised_scores_of_all_tuples_add_up_to_one(head: Head, trie: PrefixTrie) -> None:
    """Heads that search by beams only; elsewhere the option changes nothing."""
    hidden = torch.randn(3, WIDTH)
    masked, renormalised = (
        head.search(of_users(head, hidden), k=ITEMS, trie=trie, exact=True, renormalize=mode)
        for mode in (False, True)
    )
    if not head.searches_by_beams or head.ranks_items:
        assert torch.equal(masked.items, renormalised.items)
        assert torch.equal(masked.scores, renormalised.scores)
        return
    torch.testing.assert_close(renormalised.leaf_scores.exp().sum(1), torch.ones(3))
    assert (masked.leaf_scores.exp().sum(1) < 0.99).all()  # some of it leaks
    assert renormalised.certified.all()
