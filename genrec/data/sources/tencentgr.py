"""TencentGR-1M and -10M (Tencent Advertising Algorithm Challenge 2025), in either of its layouts.

Ids of the dataset are those that a submission names: raw creative ids of items, raw ids of users.
The re-numbered ids are the column `reid` of both tables, 0 where training did not have the item or
user; features are 0 where they are unknown or were not seen in training.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from genrec.data.dataset import Dataset, check_dataset_target
from genrec.data.sources.registry import register
from genrec.data.tencentgr import assemble, read_competition, read_huggingface
from genrec.data.tencentgr.completeness import gaps, told_counts
from genrec.data.tencentgr.hub import fetch, is_name
from genrec.data.tencentgr.indexer import read_indexer
from genrec.data.tencentgr.item_table import item_table
from genrec.data.tencentgr.published import compare_dataset
from genrec.data.tencentgr.stage import Stage, Unit, load_one
from genrec.data.tencentgr.user_table import profile_table, user_table
from genrec.data.tencentgr.vectors import VectorSet, find_sets
from genrec.errors import ConfigError, DataError

HISTORIES = ("train", "predict")


@register("tencentgr")
def prepare_tencentgr(
    folder: str,
    path: str | None = None,
    *,
    vectors: Sequence[int] = (81,),
    revision: str | None = None,
    evaluation: str | None = None,
    histories: str = "train",
    name: str | None = None,
    workers: int | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Dataset:
    """TencentGR from its files: Hugging Face's parquet folders or the contest's json lines.

    What was read is kept beside `folder` until the dataset is whole, so that the same command goes
    on where an interrupted one stopped. Of the events a process holds a piece of a file; the rest
    is in arrays on disk, whose mapped pages count as memory though the system may take them back.

    Example:
        genrec prepare tencentgr data/tencentgr --from downloads/TencentGR-1M

    Args:
        folder: dataset folder to write.
        path: folder of the files (`--from`), or the name of a dataset on the Hugging Face hub, such
            as TAAC2025/TencentGR-1M, which is then fetched.
        vectors: multi-modal sets to keep, by number (81 to 86); none with `[]`.
        revision: commit, branch or tag of a dataset on the hub; the newest by default.
        evaluation: folder of `predict_seq.jsonl` and `predict_set.jsonl`; by default that of the
            files, or `eval` in it.
        histories: `train`, or `predict` for those of the users that the contest asks about.
        name: of the dataset; the folder's name by default.
        workers: processes; as many as there are cores, four at most, by default.
        resume: go on after an interruption.
        progress: show progress bars, on a terminal.

    Raises:
        ConfigError: if an option makes no sense or a vector set is not there.
        DataError: naming file and row of what is wrong.
        ArtefactError: if the folder cannot be written.
    """
    target = check_dataset_target(folder)
    if path is None:
        raise ConfigError("tencentgr: say where the files are with --from, a folder or hub name")
    if histories not in HISTORIES:
        raise ConfigError(f"histories={histories!r}; expected one of {', '.join(HISTORIES)}")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers}; expected at least 1")
    wanted = [str(number) for number in dict.fromkeys(vectors)]
    root = _root(path, wanted, revision, progress)
    competition = (root / "seq.jsonl").is_file()
    place = _evaluation(root, evaluation)
    if not competition:
        if evaluation is not None or histories != "train":
            raise ConfigError(
                f"{root}: has no seq.jsonl, so there is no evaluation folder and only one set of "
                "histories; leave out --evaluation and --histories"
            )
        for table in read_huggingface.TABLES:
            if not (root / table).is_dir():
                raise DataError(
                    f"{root}: holds neither seq.jsonl nor the folder {table}/; expected the files "
                    f"of TencentGR; it holds {sorted(p.name for p in root.iterdir())[:10]}"
                )
    sets = find_sets(root, wanted)
    units = (
        read_competition.units(root, place, histories)
        if competition
        else read_huggingface.units(root)
    )
    sequences = units["predict"] if histories == "predict" else units["seq"]
    if not sequences:
        raise DataError(f"{place / 'predict_seq.jsonl'}: no such file")
    stage = Stage(
        target.parent / f".{target.name}.reading",
        _plan(root, units, sets, histories),
        resume=resume,
        workers=workers or min(4, os.cpu_count() or 1),
        progress=progress,
    )
    with stage:
        read = {table: stage.run(table, work) for table, work in units.items()}
        if competition:
            stem = "predict_seq" if histories == "predict" else "seq"
            of = place if histories == "predict" else root
            lines = sum(len(load_one(stage.path(unit), "users")) for unit in sequences)
            read_competition.check_offsets(of, stem, lines)
        indexer = read_indexer(root / "indexer.pkl")
        seen = [*read["seq"], *read.get("predict", [])]
        items = assemble.build_items(indexer, read["item_feat"], read["candidate"], seen)
        found = assemble.build_sequences(stage, sequences, items, indexer)
        del indexer  # 40 bytes of each item and user that nothing below asks for
        if competition:
            asked = read_competition.target_actions(place) if histories == "predict" else {}
            profiles = [stage.path(unit) for unit in sequences]
            users = profile_table(found, profiles, _targets(found, asked))
        else:
            users = user_table(found, read["user_feat"], {})
        table = item_table(stage, items, sets)
        rows = found.rows_read | items.rows_read
        if histories == "predict":
            rows["predict"] = rows.pop("seq")
        paths = _paths(units, sets)
        info: dict[str, Any] = {
            "name": name or target.name,
            "source": f"TencentGR, {'competition' if competition else 'Hugging Face'} layout",
            "licence": "CC-BY-4.0",
            "order": "file",
            "tencentgr": {
                "histories": histories,
                "vectors": {f"mm_{one.number}": one.width for one in sets},
                "tables": {
                    table: {"files": len(paths[table]), "rows": count}
                    for table, count in rows.items()
                },
            },
            "counts": {**items.counts, **found.counts},
        }
        made = assemble.write(folder, table, found, users, info)
        stage.remove()
    _tell(made, paths, progress)
    if histories == "train":
        _compare(made, progress)
    elif len(found.silent):
        every = len(found.silent) + len(found.names)
        warnings.warn(
            f"{made.name}: {len(found.silent)} of {every} users asked about have no event of a "
            "known item; `genrec recommend` answers them by popularity",
            stacklevel=2,
        )
    return made


def _tell(made: Dataset, paths: dict[str, list[Path]], progress: bool) -> None:
    """Say what the files lack, and what was counted of them."""
    counts = made.info["counts"]
    if lacking := gaps(paths, counts):
        warnings.warn(f"{made.name}: {'; '.join(lacking)}: is the download complete?", stacklevel=3)
    if progress and (told := told_counts(counts)):
        tqdm.write(f"{made.name}: {told}", file=sys.stderr)


def _compare(made: Dataset, progress: bool) -> None:
    """Say how the counts compare with those that were published of these files."""
    name, found = compare_dataset(made)
    apart = [str(one) for one in found if not one.agrees]
    if apart:
        warnings.warn(
            f"{made.name}: is not {name} as it was published: {'; '.join(apart)}", stacklevel=3
        )
    elif found and progress:
        tqdm.write(f"{made.name}: {'; '.join(map(str, found))} ({name})", file=sys.stderr)


def _root(
    path: str | os.PathLike[str], vectors: list[str], revision: str | None, progress: bool
) -> Path:
    """The folder of the files, fetched from the hub where it is a name there."""
    root = Path(path)
    if root.is_dir():
        if revision is not None:
            raise ConfigError(
                f"revision={revision!r}: {path} is a folder here; a revision goes with a name on "
                "the hub"
            )
        return root
    if not is_name(str(path)):
        raise DataError(f"{path}: no such folder; expected the files of TencentGR")
    patterns = ["indexer.pkl", *(f"{table}/*" for table in read_huggingface.TABLES)]
    patterns += [f"mm_emb/emb_{number}_*/*" for number in vectors]
    return fetch(str(path), patterns, revision=revision, progress=progress)


def _evaluation(root: Path, given: str | None) -> Path:
    if given is not None:
        if not Path(given).is_dir():
            raise DataError(f"{given}: no such folder; expected predict_seq.jsonl in it")
        return Path(given)
    return root / "eval" if (root / "eval").is_dir() else root


def _paths(units: dict[str, list[Unit]], sets: list[VectorSet]) -> dict[str, list[Path]]:
    """The files of each table and vector set that are read, in order."""
    found = {
        table: list(dict.fromkeys(Path(unit.arguments[0]) for unit in work))
        for table, work in units.items()
    }
    return found | {f"vectors_{one.number}": list(one.files) for one in sets}


def _plan(
    root: Path, units: dict[str, list[Unit]], sets: list[VectorSet], histories: str
) -> dict[str, Any]:
    """What the staged results depend on: the files that are read, and no others beside them."""
    files = [path for paths in _paths(units, sets).values() for path in paths]
    files = [path for path in [*files, root / "indexer.pkl"] if path.is_file()]
    return {
        "format": 3,
        "histories": histories,
        "vectors": [one.number for one in sets],
        "files": [[str(p.absolute()), p.stat().st_size, p.stat().st_mtime_ns] for p in files],
    }


def _targets(found: assemble.Sequences, actions: dict[str, int]) -> dict[str, pa.Array]:
    """The type of action asked of each user, where the contest says it; null for other users."""
    if not actions:
        return {}
    types = [actions.get(name) for name in found.names.to_pylist()]
    return {"target_action": pa.array(types, pa.int32())}
