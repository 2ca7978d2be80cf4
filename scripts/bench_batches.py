"""Training steps on padded batches, on packed ones, and on packed ones of similar lengths.

    python scripts/bench_batches.py runs/amazon2014-beauty/dataset

All three see the same sequences of one dataset. `padded` computes every place of a batch, up to its
longest sequence, as models without packing do. `packed` is how genrec trains: padding takes part in
attention only. `by length` also puts sequences of similar length together (`--training.by_length`).
Processor time, in rounds that take turns; and the mean loss per label of one epoch, which must
agree. `--page` writes docs/results/batches.md.
"""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrec.artefacts import replacing
from genrec.data import Dataset, TrainingBatches, TrainingSequences, leave_one_out
from genrec.data.batching import Batch
from genrec.evaluation import machine
from genrec.models import Recommender, RecommenderConfig

DOCS = Path(__file__).parent.parent / "docs" / "results"
WAYS = ("padded", "packed", "by length")


def build(num_items: int, loss: str, arguments: argparse.Namespace) -> Recommender:
    torch.manual_seed(0)
    config = RecommenderConfig(
        num_items=num_items,
        d_model=arguments.width,
        max_history=arguments.max_history,
        item_encoder={"type": "id"},
        backbone={
            "type": arguments.backbone,
            "layers": arguments.layers,
            "heads": arguments.heads,
            "dropout": 0.0,
        },
        head={"type": "dense", "loss": loss},
    )
    return Recommender(config)


def inputs(batch: Batch, way: str) -> Batch:
    """A batch as a way computes it: padded, all places count as real and their labels as none."""
    if way == "padded":
        return {**batch, "mask": torch.ones_like(batch["mask"])}
    return batch


def batches_of(
    sequences: TrainingSequences, way: str, arguments: argparse.Namespace
) -> list[Batch]:
    chunk = arguments.by_length if way == "by length" else 0
    order = TrainingBatches(sequences.lengths, batch_size=arguments.batch_size, by_length=chunk)
    return [inputs(sequences.__getitems__(numbers), way) for numbers in order]


def mean_loss(model: Recommender, batches: list[Batch]) -> float:
    """Mean cross-entropy per label over all items, without dropout."""
    total, labels = 0.0, 0
    scores = model.item_encoder.all_items()
    with torch.no_grad():
        for batch in batches:
            hidden = model(**{k: v for k, v in batch.items() if k != "labels"}).hidden
            known = batch["labels"] >= 0
            logits = hidden[known] @ scores.T
            total += float(
                torch.nn.functional.cross_entropy(logits, batch["labels"][known], reduction="sum")
            )
            labels += int(known.sum())
    return total / labels


def spent(model: Recommender, batches: list[Batch]) -> float:
    """Processor seconds of forward and backward passes."""
    clock = time.process_time()
    for batch in batches:
        model.zero_grad()
        model(**batch).loss.backward()
    return time.process_time() - clock


def measure(
    sequences: TrainingSequences, num_items: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row per loss of the head and way of making batches."""
    epochs = {way: batches_of(sequences, way, arguments) for way in WAYS}
    model = build(num_items, "full", arguments).eval()
    losses = {way: mean_loss(model, epochs[way]) for way in WAYS}
    generator = np.random.default_rng(0)
    drawn = {}
    for way, part in epochs.items():
        drawn[way] = [part[i] for i in generator.permutation(len(part))[: arguments.steps]]
    rows = []
    for loss in arguments.losses:
        model = build(num_items, loss, arguments).train()
        rounds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds + 1):
            for way in WAYS:
                rounds[way].append(spent(model, drawn[way]) / labels_of(drawn[way]))
        seconds = {way: float(np.median(found[1:])) for way, found in rounds.items()}  # one warms
        for way in WAYS:
            places = sum(batch["mask"].numel() for batch in epochs[way])
            rows.append(
                {
                    "softmax": loss,
                    "batches": way,
                    "places_per_label": places / labels_of(epochs[way]),
                    "microseconds_per_label": 1e6 * seconds[way],
                    "times_as_fast": seconds["padded"] / seconds[way],
                    "loss": losses[way],
                }
            )
    return rows


def labels_of(batches: list[Batch]) -> int:
    return sum(int((batch["labels"] >= 0).sum()) for batch in batches)


def page(rows: list[dict[str, Any]], name: str, arguments: argparse.Namespace) -> str:
    about = machine()
    lines = [
        "# Batches of sequences",
        "",
        f"`python scripts/bench_batches.py {arguments.dataset}` on {name}, "
        f"{datetime.date.today()}, "
        f"{about['machine']}, {about['threads']} thread(s), torch {about['torch_version']}: "
        f"processor time of forward and backward passes, {arguments.steps} batches of "
        f"{arguments.batch_size} sequences, median of {arguments.rounds} rounds in which the ways "
        f"take turns, seed 0. {arguments.backbone} of width {arguments.width}, "
        f"{arguments.layers} layers, histories of at most {arguments.max_history}, dense head with "
        "the full softmax over the items or a sampled one.",
        "",
        "`padded` computes every place up to the longest sequence of a batch; `packed` is how "
        "genrec trains, padding takes part in attention only; `by length` also puts sequences of "
        f"similar length together (`--training.by_length {arguments.by_length}`). Labels are "
        "scored once in all of them. Loss: mean cross-entropy per label over one epoch at fixed "
        "weights.",
        "",
        "| softmax | batches | places per label | microseconds per label | times as fast | loss |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['softmax']} | {row['batches']} | {row['places_per_label']:.2f} | "
        f"{row['microseconds_per_label']:.1f} | {row['times_as_fast']:.2f} | {row['loss']:.6f} |"
        for row in rows
    ]
    return "\n".join([*lines, ""])


def main(given: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="dataset folder")
    parser.add_argument("--backbone", default="transformer")
    parser.add_argument("--losses", nargs="+", default=["sampled", "full"], help="of the head")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--max_history", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--by_length", type=int, default=16, help="batches of a chunk")
    parser.add_argument("--steps", type=int, default=6, help="batches of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="write docs/results/batches.md")
    arguments = parser.parse_args(given)
    data = Dataset.load(arguments.dataset)
    sequences = TrainingSequences(
        data.histories, leave_one_out(data.histories), max_length=arguments.max_history
    )
    rows = measure(sequences, len(data.catalog), arguments)
    text = page(rows, data.name, arguments)
    print(text)
    if arguments.page:
        with replacing(DOCS / "batches.md") as temporary:
            temporary.write_text(text)
    return rows


if __name__ == "__main__":
    main()
