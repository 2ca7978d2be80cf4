"""The evaluation stage: several runs and baselines under one protocol, one report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from genrec.artefacts import MANIFEST, check_folder_place
from genrec.consoles import output_console
from genrec.data import Dataset, Split
from genrec.embedding import ItemVectors
from genrec.errors import ArtefactError, ConfigError
from genrec.evaluation import (
    BASELINES,
    MASKS,
    BeamStudy,
    Evaluation,
    ModelRanker,
    NeighbourRanker,
    PopularityRanker,
    Ranker,
    Slice,
    beam_study,
    best_first,
    by_history_length,
    by_popularity,
    collect_examples,
    headline_metric,
    print_comparison,
    print_examples,
    write_metrics,
    write_report,
)
from genrec.evaluation import evaluate as evaluate_ranker
from genrec.pipeline.contest import Scores, contest_scores, print_scores
from genrec.pipeline.lists import read_items
from genrec.pipeline.notes import note, note_missing_titles
from genrec.pipeline.runs import Run
from genrec.pipeline.settings import check_training_events, choose_device, names
from genrec.pipeline.train import fitted_without_training
from genrec.processes import processes
from genrec.tokenizers import summarize

# What a row of `slices` is cut by, in `metrics.json` and in the report.
SLICES = {
    "popularity": "training popularity of the target",
    "history_length": "length of the history",
}
AT_LEAST = {
    "beam_width": 1,
    "batch_size": 1,
    "beam_users": 0,
    "examples": 0,
    "bootstrap": 0,
    "seed": 0,
}


def evaluate(
    runs: str | list[str],
    out: str,
    *,
    popularity: bool = True,
    neighbours: str | None = None,
    split: Literal["test", "validation"] = "test",
    # Lists as defaults are never changed, and `--help` shows them as they are typed.
    ks: list[int] = [5, 10, 20],  # noqa: B006
    masks: list[Literal["unmasked", "masked"]] = ["unmasked", "masked"],  # noqa: B006
    beam_width: int = 50,
    exact: bool = False,
    renormalize: bool = False,
    request_time: bool = True,
    beams: list[int] = [10, 20, 50, 100],  # noqa: B006
    beam_users: int = 0,
    examples: int = 3,
    candidates: str | None = None,
    request_action: bool = False,
    batch_size: int = 512,
    bootstrap: int = 1000,
    seed: int = 0,
    title_column: str = "title",
    dataset: str | None = None,
    vocabulary: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Evaluation]:
    """Evaluate trained runs and baselines under one protocol and write the report.

    Users of whom no event is known are answered by popularity, whatever the run, and counted. Of
    runs on the split `last-click` it also prints the score of the Tencent challenge, and keeps
    it in `metrics.json` as `contest_score`.

    Example:
        genrec evaluate runs/sid runs/report

    Args:
        runs: run folders with commas between them, all on one dataset and split.
        out: folder of the report (`report.html`) and of the baselines' `metrics.json`; a run's own
            goes into its run folder for the test split, and here for the validation split or a pool
            of candidates.
        popularity: also evaluate popularity counted over training events.
        neighbours: folder of item vectors; also evaluate, as `last-item`, the items nearest to the
            last one of each history by their cosine: content alone, without training.
        split: `test` or `validation`.
        ks: list lengths.
        masks: `unmasked`, `masked` (items of the history left out) or both.
        beam_width: of heads that search by beams.
        exact: prove every list.
        renormalize: of heads that search by beams: score by the probabilities among the codes that
            exist; by default the model's own, which codes that do not exist have a part of.
        request_time: models that know when they are asked (`times: request`) are told the time of
            the target; otherwise that of the last event before it.
        beams: widths whose loss against exact search is measured; empty skips it.
        beam_users: measure it on a sample of so many users; 0 means all.
        examples: users whose history and lists are shown.
        candidates: rank only the items of this file, for all users: a table with `item_id`, or a
            .txt file with one id a line. Targets outside count as misses. By default the whole
            catalogue, or the pool that belongs to the split (`last-click`).
        request_action: tell models that read the next action (`next-action`) that of the target.
            Report both: a service knows it only where it asks for a kind of event.
        batch_size: users per batch.
        bootstrap: resamples of the confidence intervals.
        seed: of bootstrap and samples.
        title_column: column of the catalogue shown in the examples.
        dataset: dataset folder, if it has moved since training.
        vocabulary: SID vocabulary folder, if it has moved; for all runs that have one.
        device: where the models run: `auto` (an accelerator if there is one), `cpu`, `cuda` ...
        progress: show progress bars.

    Returns:
        Evaluations by name.

    Raises:
        ConfigError: for an option out of range, or if the runs were trained on different data or
            splits, or have one name.
        ArtefactError: if a run is not whole, or the report cannot be written.
        DataError: if the catalogue knows none of the candidates.
    """
    asked = names(runs)
    if not asked:
        raise ConfigError("evaluate: give at least one run folder")
    check_evaluation(
        {
            "split": split,
            "ks": ks,
            "masks": masks,
            "beam_width": beam_width,
            "beams": beams,
            "beam_users": beam_users,
            "examples": examples,
            "batch_size": batch_size,
            "bootstrap": bootstrap,
            "seed": seed,
        }
    )
    # Launched as several processes, all of them search; the first one alone writes and speaks.
    team = processes()
    progress = progress and team.is_main_process
    place_of_models = choose_device(device)
    folder = check_folder_place(out)
    if (folder / MANIFEST).is_file():
        raise ArtefactError(
            f"{folder}: is a folder of another kind, not of a report; choose another output folder"
        )
    opened = _named(
        [Run.open(run, dataset=dataset, vocabulary=vocabulary, split=True) for run in asked]
    )
    first = next(iter(opened.values()))
    _check_same_protocol(opened)
    if progress:
        _note_tie_orders(opened)
    data, parts = first.data
    questions = getattr(parts, split)
    if not request_time:
        questions = dataclasses.replace(questions, times=None)
    counts = parts.train_counts(data.histories, len(data.catalog))
    pool = parts.candidates
    if candidates is not None:
        pool = read_items(candidates, data.catalog, "--candidates")
    if examples and progress:
        note_missing_titles(data.catalog, title_column)
    rankers: dict[str, Ranker] = {
        name: ModelRanker(
            run.model_on(place_of_models),
            run.vocabulary.trie()
            if run.vocabulary is not None and run.model.head.uses_trie
            else None,
            beam_width=beam_width,
            exact=exact,
            renormalize=renormalize,
            name=name,
        )
        for name, run in opened.items()
    }
    tie_order = first.model.tables.tie_order.cpu().numpy()
    strangers = bool((questions.end == questions.start).any())
    popular = (
        PopularityRanker(counts, tie_order, name="popularity") if popularity or strangers else None
    )
    if popularity and popular is not None:
        rankers["popularity"] = popular
    baseline = _baseline_record(first)
    records = {"popularity": baseline}
    if neighbours is not None:
        content = ItemVectors.from_pretrained(neighbours).aligned_to(data.catalog)
        stored = first.load_dataset()
        check_training_events(neighbours, content.config, stored, first.split_config)
        rankers["last-item"] = NeighbourRanker(content.vectors, tie_order)
        made_from = {**baseline["fingerprints"], "vectors": content.fingerprint}
        records["last-item"] = {"fingerprints": made_from, "vectors": Path(neighbours).name}

    reads = {name: run.model.config.max_history for name, run in opened.items()}
    evaluations: dict[str, Evaluation] = {}
    studies: dict[str, BeamStudy] = {}
    scores: dict[str, Scores] = {}
    about: dict[str, dict[str, Any]] = {}
    slices: dict[str, dict[str, list[Slice]]] = {key: {} for key in SLICES}
    for name, ranker in rankers.items():
        # Tables split by rows are looked up by all processes together, for all users.
        shared = name not in opened or not opened[name].is_split
        evaluations[name] = evaluate_ranker(
            ranker,
            data,
            questions,
            split=split,
            ks=ks,
            batch_size=batch_size,
            max_length=reads.get(name, 1),
            masks=masks,
            bootstrap=bootstrap,
            seed=seed,
            candidates=pool,
            request_action=request_action,
            fallback=popular,
            shared=shared,
            progress=progress,
        )
        if beams and isinstance(ranker, ModelRanker) and opened[name].searches_by_beams:
            studies[name] = beam_study(
                ranker,
                data,
                questions,
                widths=beams,
                max_length=reads[name],
                batch_size=batch_size,
                sample=beam_users or None,
                seed=seed,
                candidates=pool,
                shared=shared,
                progress=progress,
            )
        run = opened.get(name)
        own = run is not None and split == "test" and candidates is None
        place = run.folder if run is not None and own else folder / name
        about[name] = records[name] if run is None else _training_record(run, counts)
        ndcg = headline_metric(evaluations[name])
        shown_metrics = (ndcg.replace("ndcg", "recall"), ndcg)
        slices["popularity"][name] = by_popularity(evaluations[name], counts, metrics=shown_metrics)
        slices["history_length"][name] = by_history_length(evaluations[name], metrics=shown_metrics)
        record: dict[str, Any] = {
            "day_order": _order(first, data),
            "split_settings": first.config["split"],
            **about[name],
            "slices": {key: [one.as_dict() for one in cut[name]] for key, cut in slices.items()},
        }
        if name in studies:
            record["beams"] = studies[name].as_dict()
        scores[name] = contest_scores(evaluations[name], data, parts, part=split)
        if scores[name]:
            record["contest_score"] = scores[name]
        if team.is_main_process:
            write_metrics(place, [evaluations[name]], **record)
    team.wait_for_everyone()
    found = list(evaluations.values())
    ranked = best_first(found, masks[0], headline_metric(found[0]))
    shown = collect_examples(
        [rankers[evaluation.ranker] for evaluation in ranked],
        data,
        questions,
        count=examples,
        seed=seed,
        title_column=title_column,
        max_lengths=reads,
        candidates=pool,
    )
    if not team.is_main_process:
        return evaluations
    write_report(
        folder / "report.html",
        found,
        title=f"genrec: {data.name}",
        slices={SLICES[key]: cut for key, cut in slices.items()},
        beams=studies,
        facts=_facts(first, data, parts),
        vocabularies=_vocabularies(opened),
        examples=shown,
        rankers=about,
    )
    if progress:
        console = output_console()
        print_examples(shown, console=console)
        print_comparison(found, console=console)
        print_scores(scores, console=console)
        console.print(f"report: {folder / 'report.html'}")
    return evaluations


def check_evaluation(options: Mapping[str, Any]) -> None:
    """Check options of `evaluate` that need no run; those that are not given pass.

    Raises:
        ConfigError: naming the first that makes no sense.
    """
    if options.get("split", "test") not in ("test", "validation"):
        raise ConfigError(f"evaluate: split={options['split']!r}; expected 'test' or 'validation'")
    for name, least in AT_LEAST.items():
        if options.get(name, least) < least:
            raise ConfigError(f"evaluate: {name}={options[name]}; expected at least {least}")
    for name in ("ks", "beams"):
        if any(value < 1 for value in options.get(name, ())):
            raise ConfigError(f"evaluate: {name}={options[name]}; expected numbers of at least 1")
    if not options.get("ks", [1]):
        raise ConfigError("evaluate: ks=[]; expected one or more list lengths")
    masks = options.get("masks", MASKS)
    if not masks or any(mask not in MASKS for mask in masks):
        raise ConfigError(f"evaluate: masks={masks}; expected one or both of {', '.join(MASKS)}")


def _named(runs: list[Run]) -> dict[str, Run]:
    named: dict[str, Run] = {}
    for run in runs:
        if run.name in named or run.name in BASELINES:
            other = named[run.name].folder if run.name in named else "the baseline"
            raise ConfigError(
                f"{run.folder}: is called {run.name!r}, as is {other}; train with another --name"
            )
        named[run.name] = run
    return named


def _check_same_protocol(runs: dict[str, Run]) -> None:
    first = next(iter(runs.values()))
    for run in runs.values():
        for key in ("dataset_fingerprint", "split"):
            if run.config[key] != first.config[key]:
                raise ConfigError(
                    f"{run.folder}: has another {key} than {first.folder}; "
                    "compare runs on one dataset and split only"
                )


def _note_tie_orders(runs: dict[str, Run]) -> None:
    """Say where items of equal score stand in another order in one run than in another."""
    named: dict[str, list[str]] = {}
    for name, run in runs.items():
        order = run.config.get("tie_order_fingerprint")
        if order:
            named.setdefault(order, []).append(name)
    if len(named) > 1:
        groups = "; ".join(f"{order}: {', '.join(names)}" for order, names in named.items())
        note(
            f"the runs break ties by different orders ({groups}), so a part of their differences "
            "may be that of ties; quantize with one --seed to rule it out",
            "yellow",
        )


def _order(run: Run, data: Dataset) -> str:
    """Order of events of one day: as split, or as the dataset was prepared."""
    return run.split_config.order if run.split_config.order != "file" else data.info["order"]


def _baseline_record(run: Run) -> dict[str, Any]:
    """What stands beside the metrics of a baseline that takes data and tie order from a run."""
    return {"fingerprints": _fingerprints(run, "dataset", "tie_order")}


def _training_record(run: Run, counts: np.ndarray) -> dict[str, Any]:
    """What stands beside the metrics of a trained run."""
    return {
        "seed": run.config["training"].get("seed"),
        # A run of an earlier version does not know all of them.
        **{
            name: round(run.config[key], 1)
            for name, key in (
                ("run_seconds", "seconds"),
                ("training_seconds", "training_seconds"),
                ("run_cpu_seconds", "cpu_seconds"),
                ("training_cpu_seconds", "training_cpu_seconds"),
            )
            if key in run.config
        },
        "trained_on": {
            key: run.config[key]
            for key in ("machine", "threads", "processes", "torch_version")
            if key in run.config
        },
        "fitted_items_without_training": fitted_without_training(run.vocabulary, counts),
        "fingerprints": _fingerprints(
            run, "dataset", "vectors", "vocabulary", "tie_order", "model"
        ),
    }


def _fingerprints(run: Run, *names: str) -> dict[str, str]:
    found = {name: run.config.get(f"{name}_fingerprint", "") for name in names}
    return {name: value for name, value in found.items() if value}


def _facts(run: Run, data: Dataset, parts: Split) -> dict[str, Any]:
    return {
        "dataset": data.name,
        "users": len(data.histories),
        "items": len(data.catalog),
        "events": data.histories.num_events,
        "split by": parts.name,
        "order within a day": _order(run, data),
        "dataset fingerprint": run.config["dataset_fingerprint"],
    }


def _vocabularies(runs: dict[str, Run]) -> dict[str, dict[str, Any]]:
    """Summaries of the distinct vocabularies, under the name of the first run that uses each."""
    seen: set[str] = set()
    summaries = {}
    for name, run in runs.items():
        vocabulary = run.vocabulary
        if vocabulary is not None and vocabulary.fingerprint not in seen:
            seen.add(vocabulary.fingerprint)
            summaries[name] = summarize(vocabulary, catalog=run.data[0].catalog)
    return summaries


__all__ = ["evaluate"]
