from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genrec.data import Dataset, TrainingSequences, leave_one_out
from genrec.evaluation import ModelRanker, evaluate
from genrec.models import Recommender, RecommenderConfig
from genrec.training import TrainingConfig, train_model


class Bench:
    """Trains small models on the shop, with a scripted or a real validation."""

    def __init__(self, folder: Path) -> None:
        self.data = Dataset.load(folder)
        self.split = leave_one_out(self.data.histories)
        self.seen: list[dict[str, torch.Tensor]] = []

    def build(self) -> Recommender:
        config = RecommenderConfig(
            num_items=len(self.data.catalog),
            d_model=16,
            max_history=12,
            item_encoder={"type": "id"},
            backbone={"type": "transformer", "layers": 1, "dropout": self.dropout},
            head=self.head,
        )
        return Recommender(config)

    def validate(self, model: Recommender) -> dict[str, float]:
        self.seen.append(weights(model))
        if len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        if self.script:
            return {"ndcg@10": self.script[len(self.seen) - 1]}
        found = evaluate(
            ModelRanker(model),
            self.data,
            self.split.validation,
            split="validation",
            ks=(10,),
            max_length=12,
            masks=("unmasked",),
            bootstrap=0,
        )
        return {"ndcg@10": found.value("unmasked", "ndcg@10")}

    def train(
        self,
        output: Path,
        *,
        script: list[float] | None = None,
        stop_at: int = 0,
        dropout: float = 0.2,
        resume: bool = True,
        head: dict | None = None,
        **options,
    ) -> Recommender:
        self.head = head or {"type": "dense"}
        self.seen, self.script, self.stop_at, self.dropout = [], script or [], stop_at, dropout
        settings = {"epochs": 4, "batch_size": 64, "learning_rate": 1e-2, **options}
        config = TrainingConfig(**settings)
        sequences = TrainingSequences(
            self.data.histories, self.split, max_length=12, augmentation=config.augmentation
        )
        best = train_model(
            self.build,
            sequences,
            self.validate,
            output,
            config,
            resume=resume,
            progress=False,
        )
        return Recommender.from_pretrained(best)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.fixture(scope="session")
def bench(shop: Path) -> Bench:
    return Bench(shop / "dataset")
