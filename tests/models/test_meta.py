from __future__ import annotations

import pytest
import torch

from genrec.models import SequenceMeta


def meta_of(rows: list[list[int]]) -> SequenceMeta:
    mask = torch.tensor(rows, dtype=torch.bool)
    times = torch.arange(1, mask.numel() + 1).view(mask.shape) * 10
    return SequenceMeta.from_mask(mask, event_time=times, query_time=times + 5)


@pytest.mark.parametrize("rows", [[[1, 1, 0], [1, 0, 0]], [[0, 1, 1], [1, 1, 1]]])
def test_the_next_item_follows_the_last_real_token(rows: list[list[int]]) -> None:
    meta = meta_of(rows)
    for level in range(3):
        step = meta.next_item(level)
        for user, row in enumerate(rows):
            last = max(column for column, real in enumerate(row) if real)
            assert int(meta.last()[user]) == last
            assert int(step.position[user, 0]) == sum(row) + level
            assert int(step.item_index[user, 0]) == sum(row)
            assert int(step.level[user, 0]) == level
            request = int(meta.query_time[user, last])
            assert int(step.event_time[user, 0]) == int(step.query_time[user, 0]) == request
    assert meta.next_item(0).action is None


def test_inserted_tokens_stand_after_the_last_real_one() -> None:
    meta = meta_of([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
    longer = meta.insert(meta.next_item(0).join(meta.next_item(1)))
    assert longer.mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1] * 5]
    assert [row[: n + 2] for row, n in zip(longer.position.tolist(), (2, 1, 3), strict=True)] == [
        [0, 1, 2, 3],
        [0, 1, 2],
        [0, 1, 2, 3, 4],
    ]
    assert longer.event_time[1, :3].tolist() == [40, 45, 45]
    assert longer.right_padded


def test_codes_know_what_is_known_before_them() -> None:
    items = meta_of([[1, 1, 0]])
    items.action = torch.tensor([[4, 2, 0]])
    codes = items.per_code(3)
    assert codes.mask.tolist() == [[True] * 6 + [False] * 3]
    assert codes.position[0, :6].tolist() == [0, 1, 2, 3, 4, 5]
    assert codes.item_index[0, :6].tolist() == [0, 0, 0, 1, 1, 1]
    assert codes.level[0].tolist() == [0, 1, 2] * 3
    assert codes.event_time[0, :6].tolist() == [10, 10, 10, 20, 20, 20]
    # An item's own time is asked for until it is complete, then the next item's.
    assert codes.query_time[0, :6].tolist() == [10, 10, 15, 20, 20, 25]
    assert codes.action[0, :6].tolist() == [0, 0, 4, 0, 0, 2]
    assert codes.next_item(1).position.tolist() == [[7]]
    assert codes.next_item(1).item_index.tolist() == [[2]]


def test_selected_and_joined_rows() -> None:
    meta = meta_of([[1, 1], [1, 0], [1, 1]])
    some = meta.select(torch.tensor([2, 0]))
    assert some.position.tolist() == [[0, 1], [0, 1]]
    assert some.event_time.tolist() == [[50, 60], [10, 20]]
    both = some.join(some.next_item(0))
    assert both.position.tolist() == [[0, 1, 2]] * 2
    assert both.level is None and both.action is None
