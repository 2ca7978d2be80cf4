"""Every kind of bad input: a message that names it, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from genrec import cli

GOOD = pd.DataFrame(
    [(f"u{u}", f"i{(u + n) % 9}", 1_700_000_000 + n) for u in range(12) for n in range(5)],
    columns=["user_id", "item_id", "timestamp"],
)
ITEMS = pd.DataFrame(
    {"item_id": [f"i{n}" for n in range(9)], "title": [f"item {n}" for n in range(9)]}
)
ID_MODEL = ["--item_encoder.type=id", "--head.type=dense", "--d_model=8", "--progress=false"]
QUICK = ["--training.epochs=1", *ID_MODEL]


@pytest.fixture
def tables(tmp_path):
    """Writes the two tables, changed, and gives the command that prepares them."""

    def write(events=GOOD, items=ITEMS):
        folder = tmp_path / "export"
        folder.mkdir(exist_ok=True)
        events.to_csv(folder / "interactions.csv", index=False)
        items.to_csv(folder / "items.csv", index=False)
        return ["prepare", "tables", tmp_path / "shop", folder]

    return write


def with_row(table, **values):
    return pd.concat([table, pd.DataFrame([values])], ignore_index=True)


@pytest.mark.parametrize(
    ("events", "items", "expected"),
    [
        (GOOD.drop(columns="item_id"), ITEMS, ["interactions.csv", "column 'item_id' is missing"]),
        (GOOD.drop(columns="timestamp"), ITEMS, ["interactions.csv", "'timestamp' is missing"]),
        (GOOD, ITEMS.drop(columns="item_id"), ["items.csv", "column 'item_id' is missing"]),
        (GOOD.iloc[:0], ITEMS, ["interactions.csv", "the table is empty"]),
        (GOOD, ITEMS.iloc[:0], ["items.csv", "the table is empty"]),
        (GOOD, with_row(ITEMS, item_id="i3", title="x"), ["items.csv", "'i3'", "rows 4 and 10"]),
        (
            with_row(GOOD, user_id="u1", item_id="nope", timestamp=1_700_000_000),
            ITEMS,
            ["interactions.csv", "'nope'", "row 61"],
        ),
        (
            with_row(GOOD.astype({"timestamp": str}), user_id="u1", item_id="i1", timestamp="soon"),
            ITEMS,
            ["interactions.csv", "'timestamp' row 61 is 'soon'", "ISO 8601"],
        ),
        (with_row(GOOD, user_id=None, item_id="i1", timestamp=1), ITEMS, ["'user_id'", "row 61"]),
    ],
    ids=[
        "item column", "time column", "id column", "no events", "no items", "item twice",
        "unknown item", "time that does not parse", "user without id",
    ],
)  # fmt: skip
def test_tables_that_do_not_hold_what_they_should(
    refused, tables, tmp_path, events, items, expected
):
    refused(tables(events, items), *expected, out=tmp_path / "shop")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("column", ["user_id", "item_id"])
@pytest.mark.parametrize("value", [2**63, float("inf")])
def test_numeric_ids_that_are_too_large(refused, tmp_path, suffix, column, value):
    kind = "float64" if isinstance(value, float) else "uint64"
    events = GOOD.assign(user_id=range(60), item_id=range(60)).astype({column: kind})
    events.loc[41, column] = value
    out, path = tmp_path / "shop", tmp_path / f"interactions.{suffix}"
    if suffix == "parquet":
        events.to_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in events.to_dict("records")))
    command = ["prepare", "tables", out, path]
    refused(command, path.name, f"column {column!r} row 42 is ", "store them as text", out=out)


def test_actions_with_fractions(refused, tables, tmp_path):
    events = GOOD.assign(action=[0.5, 1.5] * 30)
    expected = ["interactions.csv", "'action' row 1 is 0.5", "use integers or strings"]
    refused(tables(events), *expected, out=tmp_path / "shop")


def test_files_that_are_missing_or_no_tables(refused, tables, tmp_path):
    out = tmp_path / "shop"
    refused(["prepare", "tables", out, tmp_path / "no"], tmp_path / "no", "no such file", out=out)
    command = tables()
    (tmp_path / "export/items.csv").write_bytes(b"PK\x03\x04\xff\xfe")
    refused(command, "items.csv", out=out)


def test_users_too_short_to_split(refused, tables, tmp_path):
    short = GOOD.groupby("user_id").head(2)
    cli.main([str(a) for a in tables(short)])
    out = tmp_path / "run"
    refused(
        ["train", tmp_path / "shop", out, *QUICK],
        f"{tmp_path / 'shop'}: no user has the 3 events", out=out,
    )  # fmt: skip


def test_users_with_one_training_event(refused, tables, tmp_path):
    cli.main([str(a) for a in tables(GOOD.groupby("user_id").head(3))])
    out = tmp_path / "run"
    refused(
        ["train", tmp_path / "shop", out, *QUICK],
        f"{tmp_path / 'shop'}: no user has two training events", out=out,
    )  # fmt: skip


@pytest.fixture
def small(tables, tmp_path):
    """The small shop, prepared."""
    cli.main([str(a) for a in tables()])
    return tmp_path / "shop"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_numbers(refused, small, tmp_path, value):
    matrix = np.ones((9, 4), np.float32)
    matrix[5, 2] = value
    np.save(tmp_path / "v.npy", matrix)
    out = tmp_path / "vectors"
    command = ["embed", small, out, "--embedder.type=precomputed", "--embedder.path"]
    refused([*command, tmp_path / "v.npy"], "v.npy", "5", out=out)


def test_vectors_of_another_count_than_the_items(refused, small, tmp_path):
    np.save(tmp_path / "v.npy", np.ones((7, 4), np.float32))
    out = tmp_path / "vectors"
    command = ["embed", small, out, "--embedder.type=precomputed", "--embedder.path"]
    refused([*command, tmp_path / "v.npy"], "v.npy", "7", "9", out=out)


def test_vectors_of_other_items(refused, shop, small, tmp_path):
    out = tmp_path / "out"
    refused(
        ["quantize", shop / "vectors", out, "--dataset", small, "--progress=false"],
        "150 items", "the catalog 9", out=out,
    )  # fmt: skip
    refused(
        ["train", small, out, *QUICK, "--vectors", shop / "vectors"],
        "150 items", "the catalog 9", out=out,
    )  # fmt: skip


def test_fewer_items_than_codes(refused, shop, tmp_path):
    out = tmp_path / "vocabulary"
    command = ["quantize", shop / "vectors", out, "--progress=false"]
    refused(
        [*command, "--quantizer.codebook_sizes=[256]"],
        f"{shop / 'vectors'}: vectors: have", "256", "codes", out=out,
    )  # fmt: skip


def test_a_vocabulary_of_other_items(refused, shop, small, tmp_path):
    out = tmp_path / "run"
    command = ["train", small, out, "--vocabulary", shop / "vocabulary", "--progress=false"]
    refused(command, "9", "150", out=out)


def test_a_model_with_another_vocabulary(refused, own_shop, tmp_path):
    command = ["quantize", own_shop / "vectors", own_shop / "vocabulary", "--progress=false"]
    cli.main([str(a) for a in (*command, "--quantizer.codebook_sizes=[8,8,8]", "--seed=1")])
    for command in (
        ["recommend", own_shop / "sid", "--users=U00001"],
        ["evaluate", own_shop / "sid", tmp_path / "report", "--progress=false"],
    ):
        refused(command, "SID vocabulary", "trained with", "train again", out=tmp_path / "report")


def test_a_model_with_another_dataset(refused, own_shop):
    command = ["prepare", "generated", own_shop / "dataset", "--num_items=150", "--num_users=50"]
    cli.main([str(a) for a in (*command, "--max_length=14")])
    refused(
        ["recommend", own_shop / "sid", "--users=U00001"],
        own_shop / "dataset", "was trained on", "train again",
    )  # fmt: skip


READERS = {
    "dataset": lambda root, out: ["embed", root / "dataset", out],
    "vectors": lambda root, out: ["quantize", root / "vectors", out, "--progress=false"],
    "vocabulary": lambda root, out: ["inspect", root / "vocabulary", "--out", out],
    "sid/model": lambda root, out: ["recommend", root / "sid", "--users=U00001", "--out", out],
}


@pytest.mark.parametrize("change", ["truncated", "edited", "removed"])
@pytest.mark.parametrize("kind", READERS)
def test_an_artefact_that_was_truncated_or_edited(refused, own_shop, tmp_path, kind, change):
    root = own_shop / kind
    files = sorted(p for p in root.rglob("*") if p.is_file())
    assert files
    out = tmp_path / "out.csv"
    for path in files:
        whole = path.read_bytes()
        if change == "removed":
            path.unlink()
        elif change == "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        else:
            middle = len(whole) // 2
            path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        if path.name == "manifest.json" and change == "removed" and kind == "dataset":
            path.write_bytes(whole)  # a folder without one is a user's own
            continue
        refused(READERS[kind](own_shop, out), path.parent.name, out=out)
        path.write_bytes(whole)


def test_a_run_description_that_was_truncated_or_edited(refused, own_shop):
    path = own_shop / "sid" / "run.json"
    whole = path.read_text()
    command = ["recommend", own_shop / "sid", "--users=U00001"]
    path.write_text(whole[:100])
    refused(command, path, "not valid JSON")
    path.write_text(whole.replace('"learning_rate": ', '"learning_rate": 1'))
    refused(command, path, "was edited after the training")
    record = json.loads(whole)
    del record["fingerprint"]  # as runs of older versions have none
    whole = json.dumps(record)
    for key in ("dataset", "split", "name", "validation"):
        path.write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != key}))
        refused(command, path, f"says nothing of '{key}'")
    path.write_text(whole.replace('"model_fingerprint": "', '"model_fingerprint": "0'))
    refused(command, own_shop / "sid" / "model", "is not the model")
    path.write_text(whole.replace('"order": "file"', '"ordr": "file"'))
    refused(command, path, "split")
    shutil.rmtree(own_shop / "sid" / "model")
    path.write_text(whole)
    refused(command, own_shop / "sid" / "model", "is missing")
    path.unlink()
    refused(command, own_shop / "sid", "has no run.json")


def test_a_folder_of_another_kind(refused, shop, tmp_path):
    out = tmp_path / "out"
    refused(["quantize", shop / "vocabulary", out, "--progress=false"], "'vectors' folder", out=out)
    refused(["inspect", shop / "vectors"], "'sid-vocabulary' folder")
    refused(["recommend", shop / "dataset", "--users=U00001"], "has no run.json")
    refused(["embed", shop / "vectors", out], shop / "vectors", out=out)
    refused(["evaluate", shop / "dataset", out], "has no run.json", out=out)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--training.report_to=foo", "report_to='foo': 'foo' is unknown"),
        ("--training.report_to=tensorbord", "did you mean 'tensorboard'"),
        ("--backbone.heads=0", "backbone: heads=0; expected at least 1"),
        ("--backbone.layers=0", "backbone: layers=0; expected at least 1"),
        ("--backbone.layers=-1", "backbone: layers=-1; expected at least 1"),
        ("--backbone.ffn=0", "backbone: ffn=0; expected at least 1"),
        ("--backbone.dropout=1.5", "dropout=1.5; expected from 0 to below 1"),
        ("--backbone.attention_dropout=-0.1", "attention_dropout=-0.1; expected from 0"),
        ("--training.seed=-1", "training: seed=-1; expected from 0"),
        ("--split.seed=-1", "split: seed=-1; expected 0 or more"),
        ("--head.label_smoothing=2", "'dense': label_smoothing=2; expected from 0 to below 1"),
        ("--head.label_smoothing=-1", "'dense': label_smoothing=-1; expected from 0 to below 1"),
        ("--name=../x", "name='../x'; expected a name without a folder"),
        ("--input_dropout=1", "input_dropout=1.0; expected from 0 to"),
        ("--item_encoder.dropout=1.0", "'id': dropout=1.0; expected from 0 to below 1"),
    ],
)
def test_training_settings_that_make_no_sense(refused, shop, tmp_path, option, expected):
    out = tmp_path / "out"
    refused(["train", shop / "dataset", out, *QUICK, option], expected, out=out)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"experts": 0}, "experts=0; expected at least 1"),
        ({"hidden": -1}, "hidden=-1; expected 0 or more"),
        ({"dropout": 2}, "'semantic': dropout=2; expected from 0 to below 1"),
    ],
)
def test_content_encoders_that_make_no_sense(refused, shop, tmp_path, options, expected):
    out = tmp_path / "out"
    encoder = json.dumps({"type": "semantic", **options})
    command = ["train", shop / "dataset", out, *QUICK, "--vectors", shop / "vectors"]
    refused([*command, f"--item_encoder={encoder}"], expected, out=out)


@pytest.mark.parametrize(
    ("precision", "package", "expected"),
    [
        ("fp16", "none", "precision='fp16' needs an accelerator"),
        ("fp32", "dagshub", "the package of 'dagshub' is not installed"),
    ],
)
def test_training_settings_for_another_machine(
    refused, shop, tmp_path, monkeypatch, precision, package, expected
):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setattr(
        "genrec.training.config.get_available_reporting_integrations", lambda: ["tensorboard"]
    )
    options = {"--training.precision": precision, "--training.report_to": package}
    given = [f"{key}={value}" for key, value in options.items()]
    out = tmp_path / "out"
    refused(["train", shop / "dataset", out, *QUICK, *given], expected, out=out)
    path = tmp_path / "recipe.yaml"
    training = {"epochs": 1, "precision": precision, "report_to": package}
    runs = {"sid": {"vocabulary": "rq", "training": training}}
    path.write_text(yaml.safe_dump({**RECIPE, "runs": runs}))
    refused(["run", path, "--out", out], path, "runs: sid", expected, out=out)


@pytest.mark.parametrize("kind", ["rq-kmeans", "rq-vae"])
@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there(refused, shop, tmp_path, kind, device):
    out = tmp_path / "out"
    options = [f"--quantizer.type={kind}", f"--quantizer.device={device}"]
    refused(["quantize", shop / "vectors", out, *options], f"device: '{device}'", out=out)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--seed=-1", "seed=-1; expected at least 0"),
        ("--examples=-1", "examples=-1; expected at least 0"),
        ("--beam_users=-1", "beam_users=-1; expected at least 0"),
        ("--bootstrap=-5", "bootstrap=-5; expected at least 0"),
        ("--beam_width=0", "beam_width=0; expected at least 1"),
        ("--batch_size=0", "batch_size=0; expected at least 1"),
        ("--ks=[]", "ks=[]; expected one or more list lengths"),
        ("--masks=[]", "masks=[]; expected one or both of unmasked, masked"),
        ("--device=abacus", "device: 'abacus' cannot be used here"),
    ],
)
def test_settings_of_an_evaluation_that_make_no_sense(refused, shop, tmp_path, option, expected):
    out = tmp_path / "out"
    refused(["evaluate", shop / "ids", out, option], expected, out=out)


def test_seeds_that_make_no_sense(refused, shop, tmp_path):
    out = tmp_path / "out"
    refused(["quantize", shop / "vectors", out, "--quantizer.seed=-1"], "seed: is -1", out=out)
    refused(["embed", shop / "dataset", out, "--embedder.seed=-1"], "seed must be from 0", out=out)


def test_a_head_that_no_layer_can_be_made_of(refused, shop, tmp_path):
    out = tmp_path / "out"
    command = ["train", shop / "dataset", out, "--vocabulary", shop / "vocabulary"]
    refused([*command, "--head.hidden=-3"], "hidden=-3; expected at least 1", out=out)


RECIPE = {
    "name": "small",
    "prepare": {"source": "generated", "num_items": 150, "num_users": 20, "max_length": 10},
    "vectors": {"text": {"type": "lexical", "dim": 8}},
    "vocabularies": {"rq": {"vectors": "text", "quantizer": {"type": "rq-kmeans"}}},
    "runs": {"sid": {"vocabulary": "rq", "training": {"epochs": 1}}},
}


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("name", "did you mean 'name'"),
        ("prepare/num_items", "did you mean 'num_items'"),
        ("vectors/text/dim", "did you mean 'dim'"),
        ("vocabularies/rq/quantizer", "did you mean 'quantizer'"),
        ("vocabularies/rq/quantizer/type", "needs a `type`"),
        ("runs/sid/vocabulary", "did you mean 'vocabulary'"),
        ("runs/sid/training/epochs", "did you mean 'epochs'"),
    ],
)
def test_a_recipe_with_a_misspelt_key(refused, tmp_path, place, expected):
    recipe = json.loads(json.dumps(RECIPE))
    *parents, last = place.split("/")
    inner = recipe
    for key in parents:
        inner = inner[key]
    inner[last[:-1] + last[-1] * 2] = inner.pop(last)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    out = tmp_path / "out"
    refused(["run", path, "--out", out], path, expected, out=out)


@pytest.mark.parametrize("given", ["--items=nope,G00001", "--items=[nope, G00001]"])
def test_unknown_items_are_reported_and_skipped(capsys, shop, given):
    cli.main(["recommend", str(shop / "ids"), given, "--k=3"])
    captured = capsys.readouterr()
    assert "skipped 1 event with items that the catalog does not know: nope" in captured.err
    assert captured.out.count("G00") == 3


def test_only_unknown_items_are_an_error(refused, shop):
    refused(["recommend", shop / "ids", "--items=nope"], "unknown item 'nope'; ids look like 'G0")
