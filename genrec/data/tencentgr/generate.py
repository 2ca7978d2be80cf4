"""Write a synthetic download of TencentGR, in either of its layouts, block by block.

    generate_tencentgr("download", users=50_000)                        # Hugging Face's files
    generate_tencentgr("contest", users=1_000, layout="competition")    # the contest's json lines

The files have the names, columns and types of the real ones, so what reads these reads those. What
is in them is described in `genrec.data.tencentgr.world`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from genrec.artefacts import check_folder_place
from genrec.data.tencentgr import write_competition, write_huggingface
from genrec.data.tencentgr.schema import ITEMS_1M, POOL_1M, USERS_1M, VECTOR_SETS, vector_set
from genrec.data.tencentgr.world import ACTION_SHARES, build_world
from genrec.errors import ConfigError, DataError

WRITERS = {"huggingface": write_huggingface.write, "competition": write_competition.write}
COLD = 0.226  # share of the candidates that the index does not have


def generate_tencentgr(
    folder: str | os.PathLike[str],
    *,
    users: int = 1_000,
    items: int | None = None,
    candidates: int | None = None,
    layout: str = "huggingface",
    actions: str = "1M",
    vectors: Sequence[str] = ("emb_81_32",),
    max_length: int = 100,
    files: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write files of exactly the layout of TencentGR; the same options give the same files.

    Args:
        folder: to write; it must not exist.
        users: with a history.
        items: that histories show; by default in proportion to TencentGR-1M (4.8 a user).
        candidates: in the pool; by default in the same proportion (.14 an item).
        layout: `huggingface` or `competition`.
        actions: `1M` (exposures and clicks) or `10M` (conversions too).
        vectors: sets to write, as number and width, `emb_81_32`.
        max_length: longest history.
        files: parts of each table of the Hugging Face layout.
        seed: of everything.
        progress: show a progress bar, on a terminal.

    Returns:
        The folder.

    Raises:
        ConfigError: if an option is unknown or out of range.
        DataError: if the folder exists.
        ArtefactError: if it cannot be written.
    """
    folder = check_folder_place(folder)
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: exists; choose another folder or remove it first")
    if layout not in WRITERS:
        raise ConfigError(f"layout={layout!r}; expected one of {', '.join(WRITERS)}")
    if users < 1 or files < 1:
        raise ConfigError(f"users={users}, files={files}: expected at least 1")
    if actions not in ACTION_SHARES:
        raise ConfigError(f"actions={actions!r}; expected one of {', '.join(ACTION_SHARES)}")
    sets = [_vector_set(name) for name in vectors]
    items = max(240, round(users * ITEMS_1M / USERS_1M)) if items is None else items
    pool = max(10, round(items * POOL_1M / ITEMS_1M)) if candidates is None else candidates
    if not 10 <= pool <= items:
        raise ConfigError(f"candidates={pool}: expected from 10 to the {items} items")
    cold = round(COLD * pool)
    world = build_world(items=items, cold=cold, max_length=max_length, actions=actions, seed=seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    temporary.chmod(0o755)
    try:
        quiet = None if progress else True
        with tqdm(total=users, unit="user", desc="generate", disable=quiet) as bar:
            WRITERS[layout](
                temporary, world, users=users, pool=pool, sets=sets, files=files, bar=bar
            )
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _vector_set(name: str) -> tuple[str, int]:
    found = vector_set(name)
    if found is None or found[0] not in VECTOR_SETS or found[1] < 1:
        raise ConfigError(
            f"vectors={name!r}: expected number and width, such as emb_81_32; the sets are "
            f"{', '.join(VECTOR_SETS)}"
        )
    return found
