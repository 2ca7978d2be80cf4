"""What two processes do together in `test_sharding.py`; run with the launcher's environment."""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from genrec.models import DenseHead
from genrec.models.embeddings import HeldRows
from genrec.pipeline import evaluate, train
from genrec.processes import processes
from genrec.training import TrainingConfig, trainer
from genrec.training.optimizers import JoinedOptimizer, RowWiseAdagrad, SparseAdam, _muon
from genrec.training.sharding import RowSharded, is_finite, row_sharded, shard_tables
from genrec.training.shards import load_shard, save_shard
from genrec.training.trainer import RecommenderTrainer

SETTINGS = {
    "item_encoder": {"type": "id"},
    "backbone": {"type": "transformer", "layers": 2, "dropout": 0.0},
    "head": {"type": "dense"},
    "d_model": 16,
    "max_history": 12,
}
TRAINING = {"epochs": 3, "batch_size": 15, "learning_rate": 0.01, "crop": 0.5}
# Reads vectors, which are no parameters and stay in float32.
CONTENT = {
    **SETTINGS,
    "item_encoder": {"type": "sum", "parts": {"id": {"type": "id"}, "text": {"type": "semantic"}}},
}
HALF = {"epochs": 1, "batch_size": 15, "precision": "bf16"}
OPTIMIZED = {
    "optimizer": "muon" if hasattr(torch.optim, "Muon") else "adamw",
    "table_optimizer": "rowwise-adagrad",
    "table_learning_rate": 0.03,
}
SHARDED = {"fsdp": True, "shard_tables": 100}


def rows_are_those_of_a_whole_table() -> None:
    rank = processes().process_index
    torch.manual_seed(0)
    whole = nn.Embedding(11, 4, padding_idx=0)
    split = RowSharded(whole, device=torch.device("cpu"))
    weight = split.weight
    assert isinstance(weight, DTensor) and len(weight.to_local()) == [6, 5][rank]
    of_ranks = [torch.tensor([[0, 1, 5], [6, 10, 0]]), torch.tensor([10, 3, 3])]
    found = split(of_ranks[rank])
    assert torch.equal(found, whole(of_ranks[rank]))
    factors = [torch.arange(one.numel() * 4.0).view(*one.shape, 4) + 1 for one in of_ranks]
    (found * factors[rank]).sum().backward()
    assert len(weight.grad.to_local()) == len(weight.to_local())
    # What DDP would have: the mean over the processes.
    sum(
        (whole(one) * factor).sum() / 2 for one, factor in zip(of_ranks, factors, strict=True)
    ).backward()
    assert torch.equal(weight.grad.full_tensor(), whole.weight.grad)
    # Several look-ups of a step, and steps that accumulate, add up in the same memory.
    place = weight.grad.to_local().data_ptr()
    (split(of_ranks[rank]) * 2 + split(of_ranks[rank])).sum().backward()
    sum((whole(one) * 3).sum() / 2 for one in of_ranks).backward()
    assert torch.equal(weight.grad.full_tensor(), whole.weight.grad)
    assert weight.grad.to_local().data_ptr() == place
    assert is_finite(weight)
    with torch.no_grad():
        weight.to_local()[2:3, 1] = torch.nan if rank else 1.0
    assert not is_finite(weight)  # in both processes
    with torch.no_grad():
        weight.to_local()[:] = distribute_tensor(
            whole.weight, weight.device_mesh, [Shard(0)]
        ).to_local()
    with torch.inference_mode():
        none = of_ranks[rank].flatten()[: 3 * rank]
        assert torch.equal(split(none), whole(none))
    # The second process holds nothing.
    split = RowSharded(nn.Embedding.from_pretrained(torch.ones(1, 4)), device=torch.device("cpu"))
    assert len(split.weight.to_local()) == 1 - rank
    assert torch.equal(split(torch.zeros(3 + rank, dtype=torch.int64)), torch.ones(3 + rank, 4))


OPTIMIZERS = {
    "sparse-adam": lambda rows: SparseAdam(rows, lr=0.1, betas=(0.9, 0.98)),
    "adagrad": lambda rows: torch.optim.Adagrad(rows, lr=0.1),
    "rowwise-adagrad": lambda rows: RowWiseAdagrad(rows, lr=0.1),
}


def steps_of_split_parameters_are_those_of_whole_ones(folder: Path) -> None:
    """Also where a process holds no row, and after what was saved is read into new ones."""
    mesh = init_device_mesh("cpu", (2,))
    makers = dict(OPTIMIZERS)
    if hasattr(torch.optim, "Muon"):
        makers["muon"] = lambda some: _muon(some, lr=0.1, weight_decay=0.2)
    for name, make in makers.items():
        torch.manual_seed(2)
        whole = nn.ParameterDict({"a": nn.Parameter(torch.randn(5, 4)), "b": torch.randn(1, 3)})

        def split(value: torch.Tensor) -> DTensor:
            return distribute_tensor(value.detach().clone(), mesh, [Shard(0)])

        def copy(of: nn.ParameterDict = whole) -> nn.ParameterDict:
            return nn.ParameterDict({key: nn.Parameter(split(one)) for key, one in of.items()})

        parts, steps = copy(), make(list(whole.values()))
        sharded = JoinedOptimizer([make([parts["a"]]), make([parts["b"]])])
        for step in range(4):
            for key, one in whole.items():
                one.grad = torch.randn_like(one) * (torch.rand(len(one), 1) < 0.6)
                parts[key].grad = split(one.grad)
            steps.step()
            sharded.step()
            for key, one in whole.items():
                assert torch.equal(parts[key].full_tensor(), one), (name, step)
            if step == 1:
                save_shard(folder / name, parts, sharded)
                parts = copy(nn.ParameterDict({k: torch.zeros_like(v) for k, v in whole.items()}))
                sharded = JoinedOptimizer([make([parts["b"]]), make([parts["a"]])])
                load_shard(folder / name, parts, sharded)


def train_interrupted(shop: Path, out: Path) -> None:
    held, real = [], RecommenderTrainer.evaluate
    built = {}

    def split(model: nn.Module, **options):
        for table in model.modules():
            if isinstance(table, nn.Embedding):
                built[table.num_embeddings] = type(table)
        return shard_tables(model, **options)

    def evaluate(self, *args, **kwargs):
        assert torch.initial_seed() == processes().process_index  # dropout of its own
        if len(held) == 2:
            raise KeyboardInterrupt
        (table,) = row_sharded(self.model).values()
        parts = [value.to_local().numel() for value in self.model.parameters()]
        moments = self.optimizer.state[table.weight]["exp_avg"]
        held.append((len(table.weight.to_local()), len(moments.to_local()), sum(parts)))
        return real(self, *args, **kwargs)

    def run(config: TrainingConfig) -> None:
        train(str(shop / "dataset"), str(out), training=config, progress=False, **SETTINGS)

    trainer.shard_tables = split
    RecommenderTrainer.evaluate = evaluate
    with pytest.raises(KeyboardInterrupt):
        run(TrainingConfig(**TRAINING, **SHARDED))
    RecommenderTrainer.evaluate = real
    # Never built whole; positions, which are no table, are.
    assert built == {150: HeldRows, 12: nn.Embedding}
    # 150 rows in two halves, and of everything else about a half.
    whole = sum(value.numel() for value in one_process_model(shop).parameters())
    assert {one[:2] for one in held} == {(75, 75)}
    assert all(one[2] <= whole / 2 + 64 for one in held)
    assert not (out / "model").exists()
    run(TrainingConfig(**TRAINING, **SHARDED))


def train_with_optimizers(shop: Path, out: Path) -> None:
    config = TrainingConfig(**{**TRAINING, **OPTIMIZED, "epochs": 1}, **SHARDED)
    train(str(shop / "dataset"), str(out), training=config, progress=False, **SETTINGS)


def evaluate_split(out: Path) -> None:
    found = []

    def search(self, hidden, **options):
        (table,) = row_sharded(self.encoder).values()
        found.append(len(table.weight.to_local()))
        assert self._catalog is None  # nor has it the catalogue's vectors
        return real(self, hidden, **options)

    real, DenseHead.search = DenseHead.search, search
    evaluate(str(out), str(out.with_name("report")), bootstrap=0, progress=False)
    DenseHead.search = real
    assert found and set(found) == {75}


def train_in_half_precision(shop: Path, out: Path) -> None:
    config = TrainingConfig(**HALF, **SHARDED)
    train(
        str(shop / "dataset"), str(out), vectors=str(shop / "vectors"), training=config,
        progress=False, **CONTENT,
    )  # fmt: skip


def one_process_model(shop: Path) -> nn.Module:
    from genrec.models import Recommender, RecommenderConfig

    with torch.device("meta"):
        return Recommender(RecommenderConfig(num_items=150, **SETTINGS))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(300, exit=True)  # waiting for one another
    torch.set_num_threads(1)
    rows_are_those_of_a_whole_table()
    steps_of_split_parameters_are_those_of_whole_ones(Path(sys.argv[2]).with_name("steps"))
    train_interrupted(Path(sys.argv[1]), Path(sys.argv[2]))
    train_with_optimizers(Path(sys.argv[1]), Path(sys.argv[2]).with_name("optimized"))
    evaluate_split(Path(sys.argv[2]))
    train_in_half_precision(Path(sys.argv[1]), Path(sys.argv[2]).with_name("half"))
