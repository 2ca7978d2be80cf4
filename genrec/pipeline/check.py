"""What a dataset has and what its split holds out, counted, compared and checked."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from genrec.consoles import output_console
from genrec.data import Dataset, Split
from genrec.data.split_checks import check_split
from genrec.data.tencentgr.published import Comparison, compare_dataset, compare_split
from genrec.pipeline.notes import note
from genrec.pipeline.settings import SPLIT_DEFAULT, SplitConfig, naming, plain_settings


def check(dataset: str, *, split: SplitConfig = SPLIT_DEFAULT) -> dict[str, Any]:
    """Count what a dataset has and its split holds out, and check that no answer is known before.

    Where counts of the dataset were published (TencentGR-1M and -10M, and the reference hold-out of
    the first), they stand beside it.

    Example:
        genrec check data/tencentgr --split.type last-click

    Args:
        dataset: dataset folder.
        split: which events train, validate and test.

    Returns:
        `counts`, `rules` that hold, and `published`: for each count what was found and published,
        and whether they agree.

    Raises:
        ArtefactError: if the dataset is not whole.
        DataError: if the split breaks a rule; names the rule and the first user.
    """
    loaded = Dataset.load(dataset)
    data, parts = split.apply(loaded)
    with naming(dataset):
        rules = check_split(data, parts)
    name, compared = compare_dataset(loaded)
    compared += compare_split(parts.info)
    counts = {
        "users": len(data.histories),
        "items": len(data.catalog),
        "events": data.histories.num_events,
        "training events": int((parts.train_end - parts.train_start).sum()),
        "validation questions": len(parts.validation),
        "test questions": len(parts.test),
        **loaded.info.get("counts", {}),
        **{key: value for key, value in parts.info.items() if type(value) is int},
    }
    _print(dataset, split, parts, counts, rules, name, compared)
    return {
        "counts": counts,
        "rules": rules,
        "published": {
            one.what: {"found": one.found, "published": one.published, "agrees": one.agrees}
            for one in compared
        },
    }


def check_before_training(dataset: Dataset, split: Split) -> None:
    """Check a split, and say where its counts differ from published ones.

    Raises:
        DataError: as `check_split`.
    """
    check_split(dataset, split)
    compared = compare_split(split.info)
    apart = [str(one) for one in compared if not one.agrees]
    if apart:
        note(f"{dataset.name}: the hold-out is not the reference's: {'; '.join(apart)}", "yellow")
    elif compared:
        note(f"{dataset.name}: the counts of the hold-out are those of the reference")


def _print(
    dataset: str,
    settings: SplitConfig,
    split: Split,
    counts: dict[str, Any],
    rules: list[str],
    name: str,
    compared: list[Comparison],
) -> None:
    console = output_console()
    table = Table(title=f"{dataset}, {split.name}", title_justify="left")
    table.add_column("count")
    table.add_column("", justify="right")
    for what, count in counts.items():
        table.add_row(
            what.replace("_", " "), f"{count:,}" if isinstance(count, int) else str(count)
        )
    console.print(table)
    console.print(f"split: {plain_settings(settings.describe())}", highlight=False, soft_wrap=True)
    for rule in rules:
        console.print(f"holds: {rule}", highlight=False, soft_wrap=True)
    for one in compared:
        state = "agrees" if one.agrees else "DIFFERS"
        style = "" if one.agrees else "yellow"
        console.print(f"{state}: {one}", highlight=False, soft_wrap=True, style=style)
    if not compared:
        console.print("no counts of this dataset were published", highlight=False)
    elif not name:
        console.print("the files have none of the published counts", highlight=False)
