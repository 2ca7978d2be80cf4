"""The Hugging Face layout: directories of parquet parts, and `indexer.pkl`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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

EVENT = pa.struct([("item_id", pa.int64()), ("action_type", pa.int32()), ("timestamp", pa.int64())])
SEQ = pa.schema([("user_id", pa.int64()), ("seq", pa.list_(EVENT))])
USER = pa.schema(
    [
        ("user_id", pa.int64()),
        *((f.name, pa.list_(pa.int64()) if f.is_list else pa.int64()) for f in USER_FEATURES),
    ]
)
ITEM = pa.schema([("item_id", pa.int64()), *((f.name, pa.int64()) for f in ITEM_FEATURES)])
VALUE = pa.struct([("cold_start", pa.int64()), ("feature_value", pa.string())])
CANDIDATE = pa.schema(
    [
        ("item_id", pa.int64()),
        ("retrieval_id", pa.int64()),
        *((f.name, VALUE) for f in ITEM_FEATURES),
    ]
)
VECTOR = pa.schema([("anonymous_cid", pa.string()), ("emb", pa.list_(pa.float64()))])
_ROWS = 100_000
_FLOATS = 1 << 22  # numbers of vectors made at once


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
    """Write all tables of a world."""
    numbers = number(world, users)
    clicked = np.full(users, -1, dtype=np.int64)
    blocks = blocks_of_users(world, users)
    for part, mine in enumerate(np.array_split(np.arange(len(blocks)), min(files, len(blocks)))):
        with (
            _part(folder / "seq", part, SEQ) as seq,
            _part(folder / "user_feat", part, USER) as user_feat,
        ):
            for block in mine:
                _, first, size = blocks[block]
                made = simulate(world, block=int(block), users=size)
                who = np.arange(first, first + size)
                clicked[who] = last_clicks(made)
                seq.write_table(_histories(made, numbers, who))
                user_feat.write_table(_users(world, made, numbers, who))
                bar.update(size)
    _write_items(folder / "item_feat", world, numbers, files)
    with _part(folder / "candidate", 0, CANDIDATE) as file:
        chosen = choose_pool(world, clicked, pool)
        for low in range(0, len(chosen), _ROWS):
            file.write_table(_candidates(world, numbers, chosen[low : low + _ROWS], low))
    for name, width in sets:
        _write_vectors(
            folder / "mm_emb" / f"emb_{name}_{width}_parquet", world, numbers, name, width
        )
    actions = 2 if world.base[1] == 0 else 3
    write_index(folder / "indexer.pkl", world, numbers, users, actions)


def _part(folder: Path, number: int, schema: pa.Schema) -> pq.ParquetWriter:
    """A part of a table, named as Spark names them."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = hashlib.sha256(folder.name.encode()).hexdigest()
    unique = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))
    name = f"part-{number:05d}-{unique}-c000.snappy.parquet"
    return pq.ParquetWriter(folder / name, schema, compression="snappy")


def _histories(block: Block, numbers: Numbers, who: np.ndarray) -> pa.Table:
    actions = block.actions.astype(np.int32)
    events = pa.StructArray.from_arrays(
        [
            pa.array(numbers.item[block.items]),
            pa.array(actions, mask=actions < 0),
            pa.array(block.times),
        ],
        fields=list(EVENT),
    )
    ends = np.concatenate([[0], np.cumsum(block.lengths)]).astype(np.int32)
    return pa.table([pa.array(numbers.user[who]), pa.ListArray.from_arrays(ends, events)], SEQ)


def _users(world: World, block: Block, numbers: Numbers, who: np.ndarray) -> pa.Table:
    columns = [pa.array(numbers.user[who])]
    for feature in USER_FEATURES:
        values, counts = user_feature(world, feature, who, block.favourites)
        if feature.is_list:
            ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
            columns.append(
                pa.ListArray.from_arrays(ends, pa.array(values), mask=pa.array(counts == 0))
            )
        else:
            one = np.zeros(len(who), dtype=np.int64)
            one[counts > 0] = values
            columns.append(pa.array(one, mask=counts == 0))
    return pa.table(columns, USER)


def _write_items(folder: Path, world: World, numbers: Numbers, files: int) -> None:
    """Items in the order of their numbers, which is a random one."""
    for part, mine in enumerate(np.array_split(np.arange(1, world.items + 1), files)):
        with _part(folder, part, ITEM) as file:
            for low in range(0, len(mine), _ROWS):
                ids = mine[low : low + _ROWS]
                items = numbers.world[ids]
                columns = [pa.array(ids)]
                for feature in ITEM_FEATURES:
                    values = item_feature(world, feature, numbers.values[feature.name], items)
                    columns.append(pa.array(values, mask=values == 0))
                file.write_table(pa.table(columns, ITEM))


def _candidates(world: World, numbers: Numbers, items: np.ndarray, first: int) -> pa.Table:
    columns = [pa.array(numbers.raw[items]), pa.array(np.arange(first, first + len(items)))]
    for feature in ITEM_FEATURES:
        values = item_feature(world, feature, numbers.values[feature.name], items)
        cold = unseen_value(world, feature.name, values, items)
        # What training did not see has no number, only its raw value.
        shown = np.where(cold, 10**9 + raw_value(world, feature.name, values), values)
        text = pa.array(shown, mask=values == 0).cast(pa.string())
        columns.append(
            pa.StructArray.from_arrays([pa.array(cold.astype(np.int64)), text], fields=list(VALUE))
        )
    return pa.table(columns, CANDIDATE)


def _write_vectors(folder: Path, world: World, numbers: Numbers, name: str, width: int) -> None:
    """Vectors of 96% of the items in random order; of these, one in two hundred is null."""
    items = np.arange(world.items + world.cold)
    items = items[unit(world.seed, int(name), 30, items) < 0.966]
    items = np.random.default_rng([world.seed, 6, int(name)]).permutation(items)
    rows = max(1, _FLOATS // width)
    for part, mine in enumerate(np.array_split(items, 5)):
        with _part(folder, part, VECTOR) as file:
            for low in range(0, len(mine), rows):
                chunk = mine[low : low + rows]
                missing = unit(world.seed, int(name), 31, chunk) < 0.005
                vectors = item_vectors(world, chunk, name=name, width=width).astype(np.float64)
                ends = np.arange(len(chunk) + 1, dtype=np.int32) * width
                lists = pa.ListArray.from_arrays(
                    ends, pa.array(vectors.ravel()), mask=pa.array(missing)
                )
                ids = pa.array(numbers.raw[chunk]).cast(pa.string())
                file.write_table(pa.table([ids, lists], VECTOR))
