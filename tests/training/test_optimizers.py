"""Optimisers of dense parameters and of embedding tables, against slow ones and after a resume."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from genrec.errors import ConfigError
from genrec.models import Recommender, RecommenderConfig
from genrec.training import TrainingConfig
from genrec.training.optimizers import (
    JoinedOptimizer,
    RowWiseAdagrad,
    SparseAdam,
    build_optimizer,
    hidden_names,
    table_names,
)

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")


def slow_sparse_adam(weights, gradients, *, lr, betas, eps=1e-8):
    """Rows as lists: a row moves, and its moments change, only where it has a gradient."""
    weights = [list(map(float, row)) for row in weights]
    moments = [[[0.0] * len(row) for row in weights] for _ in range(2)]
    for step, gradient in enumerate(gradients, 1):
        for r, row in enumerate(gradient):
            if not any(row):
                continue
            for c, g in enumerate(row):
                for order, beta in enumerate(betas):
                    moments[order][r][c] += (1 - beta) * (g ** (order + 1) - moments[order][r][c])
                size = moments[0][r][c] / (1 - betas[0] ** step)
                scale = (moments[1][r][c] ** 0.5) / (1 - betas[1] ** step) ** 0.5
                weights[r][c] -= lr * size / (scale + eps * (1 - betas[1] ** step) ** -0.5)
    return weights


def slow_rowwise_adagrad(weights, gradients, *, lr):
    weights = [list(map(float, row)) for row in weights]
    sums = [0.0] * len(weights)
    for gradient in gradients:
        for r, row in enumerate(gradient):
            sums[r] += sum(g * g for g in row) / len(row)
            for c, g in enumerate(row):
                weights[r][c] -= lr * g / (sums[r] ** 0.5 + 1e-10)
    return weights


@st.composite
def histories_of_gradients(draw):
    """Weights `[R, C]` and gradients `[T, R, C]`, in which whole rows are zero."""
    rows, columns, steps = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    gradients = rng.standard_normal((steps, rows, columns))
    gradients *= rng.random((steps, rows, 1)) < draw(st.sampled_from([0.0, 0.4, 1.0]))
    return rng.standard_normal((rows, columns)), gradients


def moved(optimizer, weights, gradients):
    table = nn.Parameter(torch.tensor(weights, dtype=torch.float64))
    steps = optimizer([table])
    for gradient in gradients:
        table.grad = torch.tensor(gradient, dtype=torch.float64)
        steps.step()
        # What a trainer does afterwards finds the gradient as it was.
        np.testing.assert_array_equal(table.grad.numpy(), gradient)
    return table.detach().numpy()


@given(histories_of_gradients())
@settings(max_examples=30, deadline=None)
def test_sparse_adam_equals_a_loop_over_rows(case):
    weights, gradients = case
    betas = (0.9, 0.98)
    found = moved(lambda p: SparseAdam(p, lr=0.1, betas=betas), weights, gradients)
    expected = slow_sparse_adam(weights, gradients, lr=0.1, betas=betas)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@given(histories_of_gradients())
@settings(max_examples=30, deadline=None)
def test_rowwise_adagrad_equals_a_loop_over_rows(case):
    weights, gradients = case
    found = moved(lambda p: RowWiseAdagrad(p, lr=0.1), weights, gradients)
    expected = slow_rowwise_adagrad(weights, gradients, lr=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    untouched = ~gradients.any(axis=(0, 2))
    np.testing.assert_array_equal(found[untouched], weights[untouched])


def test_rowwise_adagrad_keeps_one_number_a_row():
    table = nn.Parameter(torch.randn(7, 5))
    optimizer = RowWiseAdagrad([table], lr=0.1)
    table.grad = torch.ones_like(table)
    optimizer.step()
    assert optimizer.state[table]["sum"].numel() == 7


def build(backbone: str = "transformer", encoder: str = "sum") -> Recommender:
    config = RecommenderConfig(
        num_items=30,
        vector_dim=4,
        feature_columns=[("a", 9, 1)],
        user_columns=[("u", 5, 1)],
        num_users=3,
        d_model=8,
        max_history=6,
        item_encoder={
            "sum": {
                "type": "sum",
                "parts": {
                    "item": {"type": "features", "columns": ["a"]},
                    "user": {"type": "user", "columns": ["u"]},
                    "action": {"type": "action", "num_actions": 2},
                },
            },
            "semantic": {"type": "semantic"},
        }[encoder],
        backbone={"type": backbone, "layers": 1, "heads": 1},
        head={"type": "dense", "items": "table" if encoder == "sum" else "encoder"},
    )
    return Recommender(config)


def kinds_of(model: Recommender, optimizer: torch.optim.Optimizer) -> dict[str, tuple[str, float]]:
    """Optimiser and learning rate of every parameter that is trained, each of which has one."""
    names = {id(one): name for name, one in model.named_parameters() if one.requires_grad}
    parts = optimizer.parts if isinstance(optimizer, JoinedOptimizer) else [optimizer]
    found: dict[str, tuple[str, float]] = {}
    for part in parts:
        for group in part.param_groups:
            for one in group["params"]:
                assert names[id(one)] not in found
                found[names[id(one)]] = (type(part).__name__, group["lr"])
    assert set(found) == set(names.values())
    return found


TABLES = {
    "item_encoder.parts.item.sparse.table.weight",
    "item_encoder.parts.user.sparse.table.weight",
    "item_encoder.parts.action.table.weight",
    "head.own.table.weight",
}


def test_what_is_a_table_and_what_a_hidden_matrix():
    model = build()
    assert table_names(model) == TABLES
    hidden = hidden_names(model)
    assert hidden and all(name.startswith("backbone.blocks.0.") for name in hidden)
    assert "backbone.position.weight" not in hidden
    assert hidden_names(build("hstu")) == {
        "backbone.layers.0.uvqk",
        "backbone.layers.0.out.weight",
    }


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("adamw", "AdamW"),
        ("sparse-adam", "SparseAdam"),
        ("adagrad", "Adagrad"),
        ("rowwise-adagrad", "RowWiseAdagrad"),
    ],
)
@pytest.mark.parametrize("dense", ["adamw", pytest.param("muon", marks=needs_muon)])
def test_every_parameter_has_its_optimiser_and_learning_rate(table: str, kind: str, dense: str):
    model = build()
    config = TrainingConfig(
        learning_rate=0.01,
        optimizer=dense,
        muon_learning_rate=0.02 if dense == "muon" else None,
        table_optimizer=table,
        table_learning_rate=0.05,
    )
    found = kinds_of(model, build_optimizer(model, config, decayed=()))
    hidden = hidden_names(model) if dense == "muon" else set()
    for name, one in found.items():
        if name in TABLES:
            assert one == (kind, 0.05)
        elif name in hidden:
            assert one == ("Muon", 0.02)
        else:
            assert one == ("AdamW", 0.01)


@needs_muon
def test_muon_without_a_matrix_to_train_is_refused():
    config = RecommenderConfig(
        num_items=9,
        d_model=8,
        item_encoder={"type": "id"},
        backbone={"type": "nextitnet"},  # whose layers are convolutions
        head={"type": "dense"},
    )
    with pytest.raises(ConfigError, match=r"optimizer='muon' .* 'nextitnet' has none"):
        build_optimizer(Recommender(config), TrainingConfig(optimizer="muon"), decayed=())


def test_only_what_trainers_decay_is_decayed():
    model = build()
    names = {"item_encoder.parts.item.outer.weight", *TABLES}
    config = TrainingConfig(weight_decay=0.3, table_learning_rate=0.1)
    optimizer = build_optimizer(model, config, decayed=names)
    ids = {id(one): name for name, one in model.named_parameters()}
    decayed = {
        ids[id(one)]
        for group in optimizer.param_groups
        if group["weight_decay"]
        for one in group["params"]
    }
    assert decayed == names
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.3}


def test_tables_that_are_not_there_are_named():
    with pytest.raises(ConfigError, match="no embedding table; leave both out"):
        build_optimizer(
            build(encoder="semantic"), TrainingConfig(table_learning_rate=0.1), decayed=()
        )


SPLIT = [
    {"table_optimizer": "sparse-adam"},
    {"table_optimizer": "adagrad", "table_learning_rate": 0.1, "average": 0.9},
    pytest.param(
        {"optimizer": "muon", "table_optimizer": "rowwise-adagrad", "gradient_accumulation": 2},
        marks=needs_muon,
    ),
]


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("options", SPLIT)
def test_an_interrupted_training_goes_on_to_the_same_result(bench, tmp_path, options):
    whole = bench.train(tmp_path / "whole", epochs=2, **options)
    seen = bench.seen
    with pytest.raises(KeyboardInterrupt):
        bench.train(tmp_path / "cut", epochs=2, stop_at=2, **options)
    resumed = bench.train(tmp_path / "cut", epochs=2, **options)
    assert len(bench.seen) == 1
    assert equal(bench.seen[-1], seen[-1])
    assert equal(weights(resumed), weights(whole))


def test_a_forgotten_state_would_be_seen(bench, tmp_path, monkeypatch):
    options = {"epochs": 2, "table_optimizer": "rowwise-adagrad", "table_learning_rate": 0.1}
    whole = bench.train(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        bench.train(tmp_path / "cut", stop_at=2, **options)
    monkeypatch.setattr(JoinedOptimizer, "load_state_dict", lambda self, state: None)
    resumed = bench.train(tmp_path / "cut", **options)
    assert not equal(weights(resumed), weights(whole))


def test_equal_learning_rates_are_the_plain_training(bench, tmp_path):
    options = {"epochs": 1, "learning_rate": 1e-2, "weight_decay": 0.1}
    plain = bench.train(tmp_path / "plain", **options)
    split = bench.train(tmp_path / "split", table_learning_rate=1e-2, **options)
    # `Trainer`'s AdamW is fused, which rounds otherwise.
    for name, one in weights(plain).items():
        torch.testing.assert_close(weights(split)[name], one, rtol=1e-3, atol=1e-5)


def test_the_schedule_moves_every_learning_rate(bench, tmp_path, monkeypatch):
    rates = []
    real = JoinedOptimizer.step

    def step(self, closure=None):
        rates.append([group["lr"] for group in self.param_groups])
        real(self, closure)

    monkeypatch.setattr(JoinedOptimizer, "step", step)
    bench.train(tmp_path, epochs=2, table_optimizer="adagrad", table_learning_rate=0.2, warmup=0.5)
    found = np.array(rates)
    assert len(found) > 2
    np.testing.assert_allclose(found[:, -1], found[:, 0] * 20)
    assert found[0, 0] < found[:, 0].max() and found[-1, 0] < found[:, 0].max()
    log = json.loads((tmp_path / "log.json").read_text())
    assert any(entry.get("learning_rate", 0) > 0 for entry in log)


def test_what_cannot_be_had_is_refused(bench, tmp_path, monkeypatch):
    monkeypatch.delattr("torch.optim.Muon", raising=False)
    with pytest.raises(ConfigError, match=r"optimizer='muon' needs torch 2\.9.*use 'adamw'"):
        bench.train(tmp_path / "old", optimizer="muon")
