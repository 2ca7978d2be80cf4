"""What TencentGR-1M and -10M need: disk, memory, minutes.

    python scripts/tencentgr_needs.py data work/20000
    python scripts/tencentgr_needs.py train

`data` reads how many bytes a prepared folder (of `bench_tencentgr.py prepare`, any size) takes per
event, item and user, and says what the published sizes take. `train` counts what a training step
does for a history, by model: operations of matrix products, forward and backward (torch's
FlopCounterMode), bytes kept for the backward pass, bytes of weights, gradients and optimiser; it
times the step on one core, and ESTIMATES minutes on GPUs from the operations, at a peak and a
utilisation that are given and not measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from genrec.data import Dataset
from genrec.data.tencentgr.schema import ITEM_FEATURES, ITEMS_1M, USER_FEATURES, USERS_1M
from genrec.models import Recommender, RecommenderConfig

LENGTH, LABELS = 100, 90
# Users, events, items with the cold candidates, as published.
SIZES = {
    "1M": (USERS_1M, 90_223_574, ITEMS_1M + 148_971),
    "10M": (10_139_575, round(10_139_575 * 96.29), 19_099_627),
}
INFONCE = {"loss": "infonce", "negatives": 4096, "in_batch": 4096}
MODELS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "baseline, 1 x 32": (32, {"type": "transformer", "layers": 1, "heads": 1}, {"loss": "bce"}),
    "hstu, 4 x 128": (128, {"type": "hstu", "layers": 4, "heads": 4}, INFONCE),
    "hstu, 8 x 256": (256, {"type": "hstu", "layers": 8, "heads": 8}, INFONCE),
    "hstu, 8 x 512": (512, {"type": "hstu", "layers": 8, "heads": 8}, INFONCE),
}


def data(args: argparse.Namespace) -> None:
    folder = Path(args.folder)
    dataset = Dataset.load(folder)
    have = {
        "event": dataset.histories.num_events,
        "item": len(dataset.catalog),
        "user": len(dataset.histories),
    }
    held = dict.fromkeys(have, 0)
    for path in folder.rglob("*"):
        if path.is_file():
            of = "item" if "item" in path.name and "interactions" not in path.name else "event"
            of = "user" if "user" in path.name else of
            held[of] += path.stat().st_size
    each = {name: held[name] / have[name] for name in have}
    told = ", ".join(f"{value:.1f} bytes per {name}" for name, value in each.items())
    print(f"{have['user']:,} users, {have['event']:,} events, {have['item']:,} items: {told}")
    for name, (users, events, items) in SIZES.items():
        total = users * each["user"] + events * each["event"] + items * each["item"]
        print(f"TencentGR-{name}: {total / 1e9:.1f} GB")


def build(width: int, backbone: Mapping[str, Any], head: Mapping[str, Any]) -> Recommender:
    """A model of all features as TencentGR-1M has them, with few items: rows cost nothing."""
    columns = [("reid", ITEMS_1M + 1, 1), *((f.name, f.values + 1, 1) for f in ITEM_FEATURES)]
    users = [(f.name, f.values + 1, 3 if f.is_list else 1) for f in USER_FEATURES]
    parts = {
        "item": {
            "type": "features",
            "columns": [name for name, _, _ in columns],
            "vectors": ["mm_81"],
            "width": 32,
        },
        "user": {"type": "user", "columns": [name for name, _, _ in users], "width": 32},
        "action": {"type": "action", "num_actions": 2},
        "gap": {"type": "time-gap"},
        "hour": {"type": "calendar"},
    }
    torch.manual_seed(0)
    return Recommender(
        RecommenderConfig(
            num_items=20_000,
            feature_columns=columns,
            feature_vectors=[("mm_81", 32)],
            user_columns=users,
            num_users=1,
            d_model=width,
            max_history=LENGTH,
            item_encoder={"type": "sum", "parts": parts},
            backbone=dict(backbone),
            head={"type": "dense", "similarity": "cosine", **head},
        )
    )


def histories(count: int) -> dict[str, torch.Tensor]:
    """A batch of `count` histories of `LABELS` events."""
    draw = torch.Generator().manual_seed(0)
    shape = (count, LABELS)
    times = 1_745_000_000 + torch.randint(0, 3600, shape, generator=draw).cumsum(1)
    return {
        "items": torch.randint(0, 20_000, shape, generator=draw),
        "labels": torch.randint(0, 20_000, shape, generator=draw),
        "mask": torch.ones(shape, dtype=torch.bool),
        "event_time": times,
        "query_time": times + 60,
        "action": torch.randint(0, 3, shape, generator=draw),
        "query_action": torch.zeros(shape, dtype=torch.int64),
        "user": torch.zeros(shape, dtype=torch.int64),
    }


def kept_bytes(model: Recommender, batch: dict[str, torch.Tensor]) -> int:
    """Bytes that the forward pass keeps for the backward pass, parameters and tables left out."""
    known = {v.untyped_storage().data_ptr() for v in (*model.parameters(), *model.buffers())}
    held: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # or an address would be given out again

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in known:
            held[storage.data_ptr()] = storage.nbytes()
            alive.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        model(**batch)
    return sum(held.values())


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    per_item = 4 * (1 + len(ITEM_FEATURES)) + 4 * 32 + 1 + 4 + 8
    print(f"tables of a model: {per_item} bytes per item")
    for name, (width, backbone, head) in MODELS.items():
        model = build(width, backbone, head).train()
        optimizer = torch.optim.AdamW(model.parameters())
        batch = histories(args.histories)
        kept = kept_bytes(model, batch) / args.histories
        counter = FlopCounterMode(display=False)
        with counter:
            model(**batch).loss.backward()
        flops = counter.get_total_flops() / args.histories
        optimizer.step()
        started = time.process_time()
        for _ in range(args.steps):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        spent = (time.process_time() - started) / args.steps
        size = sum(p.numel() for p in model.parameters())
        print(
            f"{name}: {size / 1e6:.1f}M parameters, {16 * size / 1e9:.2f} GB with gradients and "
            f"optimiser; {flops / 1e9:.2f} GFLOP and {kept / 1e6:.1f} MB for a history; one core "
            f"{args.histories / spent:.1f} histories a second"
        )
        for sizes, (users, _, items) in SIZES.items():
            steps = args.epochs * users / args.batch_size
            # A ring moves the gradients twice, less one part of eight.
            exchanged = 2 * 7 / 8 * 4 * size / (args.link * 1e9) * steps / 8
            memory = 16 * size + per_item * items + args.batch_size * kept
            told = []
            for share in args.utilisation:
                alone = args.epochs * users * flops / (args.peak * 1e12 * share) / 60
                told.append(
                    f"{share:.0%} of the peak: one GPU {alone:.1f} min, eight "
                    f"{alone / 8 + exchanged / 60:.1f} min"
                )
            print(
                f"  TencentGR-{sizes}, {args.epochs} epochs, ESTIMATE at {'; at '.join(told)} "
                f"({exchanged / 60:.1f} of them exchange); {memory / 1e9:.1f} GB a GPU",
                flush=True,
            )
    for sizes, (users, _, _) in SIZES.items():
        seconds = args.epochs * users / args.loader
        print(f"loader, TencentGR-{sizes}: {seconds / 60:.1f} minutes of one core")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("data")
    one.add_argument("folder")
    one.set_defaults(run=data)
    one = parts.add_parser("train")
    one.add_argument("--histories", type=int, default=32, help="in the batch that is measured")
    one.add_argument("--steps", type=int, default=1, help="that are timed")
    one.add_argument("--epochs", type=int, default=6)
    one.add_argument("--batch_size", type=int, default=512, help="histories per GPU and step")
    one.add_argument("--peak", type=float, default=312.0, help="TFLOP/s of a GPU (A100, bf16)")
    one.add_argument(
        "--utilisation", type=float, nargs="+", default=[0.02, 0.1], help="shares of the peak"
    )
    one.add_argument("--link", type=float, default=100.0, help="GB/s between GPUs")
    one.add_argument("--loader", type=float, default=94_368.0, help="histories/s of one core")
    one.set_defaults(run=train)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
