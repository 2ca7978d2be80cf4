"""What every registered head must do; a new one is picked up by itself."""

from __future__ import annotations

import pytest
import torch

from genrec.decoding import Filter, PrefixTrie
from genrec.models import HEADS, Head, ItemTables, LigerHead, SidEmbedding, SidTokens

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


def tables(seed: int = 0) -> ItemTables:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(0, k, (ITEMS,), generator=generator) for k in SIZES], 1)
    made = ItemTables(num_items=ITEMS, codebook_sizes=SIZES, vector_dim=DIM)
    return made.fill(
        codes=codes.int(),
        vectors=torch.randn(ITEMS, DIM, generator=generator),
        tie_order=torch.randperm(ITEMS, generator=generator),
    )


@pytest.fixture(params=VARIANTS, ids=lambda v: f"{v[0]}{v[1] or ''}")
def head(request: pytest.FixtureRequest) -> Head:
    name, options = request.param
    torch.manual_seed(0)
    items = tables()
    tokens = HEADS[name].reads_tokens or "'tokens'" in str(options)
    kind = SidTokens if tokens else SidEmbedding
    encoder = kind(tables=items, d_model=WIDTH)
    made = HEADS[name](tables=items, encoder=encoder, d_model=WIDTH, **options).eval()
    torch.nn.init.normal_(encoder.table.weight)
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


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


def test_a_state_learns_its_target(head: Head, trie: PrefixTrie) -> None:
    """Descending the loss of one state brings its target to the top of the search."""
    head.train()
    hidden = torch.randn(1, WIDTH, requires_grad=True)
    target = torch.tensor([17])
    optimiser = torch.optim.Adam([hidden, *head.parameters(), *head.encoder.parameters()], lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        head.loss(before_targets(head, hidden, target), target).backward()
        optimiser.step()
    head.eval()
    found = head.search(of_users(head, hidden.detach()), k=5, trie=trie, exact=True)
    same = (head.tables.codes == head.tables.codes[17]).all(1).nonzero().flatten()
    best = found.items[0, 0] if head.uses_trie else found.items[0, :1]
    assert best in (same if head.uses_trie else target)


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
    ranking = head.items if isinstance(head, LigerHead) else head
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
            ranked, scores = losses[found.items[row]], found.scores[row]
            assert (ranked.diff() > -1e-5).all()
            # A loss is a score times a constant, but for what all items share.
            scale = (ranked[-1] - ranked[0]) / (scores[0] - scores[-1])
            torch.testing.assert_close(
                (ranked - ranked[0]) / scale, scores[0] - scores, atol=1e-3, rtol=1e-3
            )


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
