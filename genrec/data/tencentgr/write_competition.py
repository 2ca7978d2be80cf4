"""The contest's layout: json lines with byte offsets, one json of item features, vector files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from genrec.data.tencentgr.content import item_feature, item_vectors, user_feature
from genrec.data.tencentgr.hashes import unit
from genrec.data.tencentgr.ids import (
    Numbers,
    blocks_of_users,
    choose_pool,
    last_clicks,
    number,
    raw_value,
    unseen_value,
    write_index,
)
from genrec.data.tencentgr.schema import ITEM_FEATURES, USER_FEATURES
from genrec.data.tencentgr.world import Block, World, simulate

EVALUATION = "eval"  # the folder that the contest's EVAL_DATA_PATH named
_ROWS = 20_000
_ASKED = 0.1  # users asked about, as a share of those that train; half of them train too


def write(
    folder: Path,
    world: World,
    *,
    users: int,
    pool: int,
    sets: Sequence[tuple[str, int]],
    files: int,
    bar: tqdm,
) -> None:
    """Write all files of a world; those of the evaluation go into `eval/`."""
    asked = max(2, round(_ASKED * users))
    numbers = number(world, users + asked)
    clicked = np.full(users, -1, dtype=np.int64)

    def training() -> Iterable[list[Any]]:
        for block, first, size in blocks_of_users(world, users):
            made = simulate(world, block=block, users=size)
            who = np.arange(first, first + size)
            clicked[who] = last_clicks(made)
            yield from _records(world, numbers, made, who, lambda n: int(numbers.user[n]))
            bar.update(size)

    _write_lines(folder, "seq", training())
    _write_item_features(folder / "item_feat_dict.json", world, numbers)
    chosen = choose_pool(world, clicked, pool)
    evaluation = folder / EVALUATION
    evaluation.mkdir()
    made = simulate(world, block=10**6, users=asked)
    _show_cold_items(world, made)
    known = asked - asked // 2  # the others are in no index and keep their raw id
    names = numbers.user_names(users + np.arange(asked)).to_pylist()

    def name(user: int) -> int | str:
        return int(numbers.user[user]) if user - users < known else str(names[user - users])

    who = users + np.arange(asked)
    _write_lines(evaluation, "predict_seq", _records(world, numbers, made, who, name))
    with (evaluation / "predict_set.jsonl").open("w") as file:
        for place, (item, features) in enumerate(_features(world, numbers, chosen)):
            line = {
                "creative_id": int(numbers.raw[item]),
                "retrieval_id": place,
                "features": features,
            }
            file.write(json.dumps(line) + "\n")
    kinds = np.random.default_rng([world.seed, 7]).integers(
        1, 2 if world.base[1] == 0 else 3, size=asked
    )
    wanted = dict(zip(names, map(int, kinds), strict=True))
    (evaluation / "user_action_type.json").write_text(json.dumps(wanted))
    (folder / "creative_emb").mkdir()
    for number_, width in sets:
        _write_vectors(folder / "creative_emb", world, numbers, number_, width)
    write_index(
        folder / "indexer.pkl", world, numbers, users + known, 2 if world.base[1] == 0 else 3
    )


def _write_lines(folder: Path, stem: str, lines: Iterable[list[Any]]) -> None:
    offsets = []
    with (folder / f"{stem}.jsonl").open("wb") as file:
        for line in lines:
            offsets.append(file.tell())
            file.write(json.dumps(line).encode() + b"\n")
    (folder / f"{stem}_offsets.pkl").write_bytes(pickle.dumps(offsets))


def _records(
    world: World,
    numbers: Numbers,
    block: Block,
    who: np.ndarray,
    name: Callable[[int], int | str],
) -> Iterable[list[Any]]:
    """A line per user: the profile record first, whose time is that of the answer, then events."""
    distinct, place = np.unique(block.items, return_inverse=True)
    features = [features for _, features in _features(world, numbers, distinct)]
    profiles = _profiles(world, who, block)
    ends = np.cumsum(block.lengths)
    ids = np.where(
        numbers.item[block.items] > 0, numbers.item[block.items], numbers.raw[block.items]
    )
    for row, user in enumerate(who.tolist()):
        part = slice(int(ends[row] - block.lengths[row]), int(ends[row]))
        answered = int(block.times[part][-1]) + 60
        records: list[Any] = [[name(user), None, profiles[row], None, None, answered]]
        for item, at, action, time in zip(
            ids[part].tolist(),
            place[part].tolist(),
            block.actions[part].tolist(),
            block.times[part].tolist(),
            strict=True,
        ):
            kind = None if action < 0 else action
            records.append([name(user), item, None, features[at], kind, time])
        yield records


def _profiles(world: World, who: np.ndarray, block: Block) -> list[dict[str, Any]]:
    profiles: list[dict[str, Any]] = [{} for _ in who]
    for feature in USER_FEATURES:
        values, counts = user_feature(world, feature, who, block.favourites)
        parts = np.split(values, np.cumsum(counts)[:-1])
        for profile, part in zip(profiles, parts, strict=True):
            if len(part):
                profile[feature.name] = part.tolist() if feature.is_list else int(part[0])
    return profiles


def _features(
    world: World, numbers: Numbers, items: np.ndarray
) -> Iterable[tuple[int, dict[str, Any]]]:
    """Each item with its features; a value that training did not see is text."""
    for low in range(0, len(items), _ROWS):
        part = items[low : low + _ROWS]
        rows: list[dict[str, Any]] = [{} for _ in part]
        for feature in ITEM_FEATURES:
            values = item_feature(world, feature, numbers.values[feature.name], part)
            unseen = unseen_value(world, feature.name, values, part)
            raw = raw_value(world, feature.name, values)
            for row, value, new, text in zip(
                rows, values.tolist(), unseen.tolist(), raw.tolist(), strict=True
            ):
                if value:
                    row[feature.name] = str(10**9 + text) if new else value
        yield from zip(part.tolist(), rows, strict=True)


def _write_item_features(path: Path, world: World, numbers: Numbers) -> None:
    items = numbers.world[1:]
    with path.open("w") as file:
        file.write("{")
        for place, (item, features) in enumerate(_features(world, numbers, items)):
            start = ", " if place else ""
            file.write(f'{start}"{numbers.item[item]}": {json.dumps(features)}')
        file.write("}")


def _show_cold_items(world: World, block: Block) -> None:
    """One event in fifty shows an item that training did not have."""
    if world.cold:
        rng = np.random.default_rng([world.seed, 8])
        cold = rng.random(len(block.items)) < 0.02
        block.items[cold] = world.items + rng.integers(0, world.cold, size=int(cold.sum()))


def _write_vectors(folder: Path, world: World, numbers: Numbers, name: str, width: int) -> None:
    """Set 81 is one pickle of arrays, the others are folders of json lines."""
    items = np.arange(world.items + world.cold)
    items = items[unit(world.seed, int(name), 30, items) < 0.966]
    vectors = item_vectors(world, items, name=name, width=width).astype(np.float32)
    raw = numbers.raw[items].tolist()
    if name == "81":
        # An array of its own for each creative, as a program that fills the dict would have.
        found = dict(zip(raw, (row.copy() for row in vectors), strict=True))
        (folder / f"emb_{name}_{width}.pkl").write_bytes(pickle.dumps(found))
        return
    place = folder / f"emb_{name}_{width}"
    place.mkdir()
    for part, rows in enumerate(np.array_split(np.arange(len(items)), 2)):
        with (place / f"part-{part:05d}.json").open("w") as file:
            for row in rows.tolist():
                line = {"anonymous_cid": str(raw[row]), "emb": vectors[row].tolist()}
                file.write(json.dumps(line) + "\n")
