from __future__ import annotations

import pytest
import torch

from genrec.models import Recommender, RecommenderConfig, embeddings
from genrec.models.embeddings import HeldRows, embedding, held_rows


# Blocks of 32 numbers: tables of less than a unit of 16, of whole blocks, and with every rest.
@pytest.mark.parametrize(
    ("rows", "width"), [(1, 4), (3, 5), (8, 4), (7, 7), (16, 4), (11, 6), (33, 16), (129, 7)]
)
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("padding", [None, 0])
def test_held_rows_are_those_of_the_whole_table(monkeypatch, rows, width, processes, padding):
    monkeypatch.setattr(embeddings, "_BLOCK", 32)
    torch.manual_seed(3)
    whole = embedding(rows, width, std=0.5, padding_idx=padding)
    after = torch.rand(5)
    held = []
    for process in range(processes):
        torch.manual_seed(3)
        with held_rows(process=process, processes=processes, least=rows):
            table = embedding(rows, width, std=0.5, padding_idx=padding)
        assert torch.equal(torch.rand(5), after)  # what is drawn next is the same too
        assert isinstance(table, HeldRows) and table.weight.is_meta
        assert table.weight.shape == whole.weight.shape
        held.append(table.held)
    assert torch.equal(torch.cat(held), whole.weight)


def test_blocks_of_the_usual_size_are_drawn_as_one(monkeypatch):
    torch.manual_seed(0)
    whole = embedding(2**16 + 1, 67).weight
    monkeypatch.setattr(embeddings, "_BLOCK", 2**20)
    torch.manual_seed(0)
    with held_rows(process=1, processes=2, least=1):
        half = embedding(2**16 + 1, 67)
    assert isinstance(half, HeldRows) and torch.equal(half.held, whole[2**15 + 1 :])


def test_a_model_is_built_with_the_rows_of_its_process_and_nothing_else_differs():
    config = RecommenderConfig(
        num_items=40,
        d_model=8,
        max_history=5,
        item_encoder={"type": "id"},
        head={"type": "dense", "items": "table"},
    )
    torch.manual_seed(1)
    whole = Recommender(config)
    torch.manual_seed(1)
    with held_rows(process=0, processes=2, least=40):
        part = Recommender(config)
    tables = {"item_encoder.table.weight", "head.own.table.weight"}
    others = dict(part.named_parameters())
    assert others.keys() | tables == dict(whole.named_parameters()).keys()
    for name, expected in whole.named_parameters():
        if name in tables:
            table = part.get_submodule(name.removesuffix(".weight"))
            assert isinstance(table, HeldRows) and torch.equal(table.held, expected[:20])
        else:
            assert torch.equal(others[name], expected)
    with held_rows(process=0, processes=2, least=41):
        assert not isinstance(embedding(40, 8), HeldRows)
    assert not isinstance(embedding(99, 8), HeldRows)
