from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys

import pandas as pd
import pytest

from genrec import cli


@pytest.fixture
def genrec(capsys):
    """Runs a command in this process and returns its exit code, output and errors."""

    def run(*args):
        capsys.readouterr()
        try:
            cli.main([str(arg) for arg in args])
            code = 0
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


def function(verb: str, source: str = ""):
    loaded = cli.load_verb(verb)
    return loaded[source] if source else loaded


GROUPS = {
    verb: [part for part in cli.load_verb(verb) if part != "_help"] for verb in ("prepare", "bench")
}
COMMANDS = [(verb, part) for verb in cli.VERBS for part in GROUPS.get(verb, ("",))]


@pytest.mark.parametrize(("verb", "source"), COMMANDS)
def test_help_shows_every_option_and_an_example_on_one_line(genrec, verb, source):
    code, out, _ = genrec(verb, *filter(None, [source]), "--help")
    assert code == 0
    assert not re.search(r"type: (str|int|float|bool|dict|Literal|Union|Optional)|null|None", out)
    signature = inspect.signature(function(verb, source))
    for name, parameter in signature.parameters.items():
        required = parameter.default is inspect.Parameter.empty
        assert (f"  {name} " if required else f"--{name}") in out
    example = [line for line in out.splitlines() if line.startswith("example: ")]
    assert len(example) == 1
    assert example[0].startswith(f"example: genrec {verb} {source}".strip())


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (
            "train",
            ["--training.epochs", "--training.patience", "--split.order", "--split.test_from"],
        ),
        ("embed", ["--embedder", "--split.order"]),
        (
            "quantize",
            ["--quantizer", "--collisions {reassign,append,allow,sinkhorn}", "--split.type"],
        ),
        ("evaluate", ["--split {test,validation}", "--beams"]),
    ],
)
def test_help_lists_nested_options_and_choices(genrec, verb, options):
    _, out, _ = genrec(verb, "--help")
    for option in options:
        assert option in out


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("embed", "  lexical: columns, template, dim, "),
        ("quantize", "  rq-kmeans: codebook_sizes, iterations, "),
        ("train", "  transformer: layers, heads, ffn, dropout, "),
        ("train", "  autoregressive: hidden, dropout, "),
    ],
)
def test_help_lists_the_options_of_each_part(genrec, verb, line):
    assert line in genrec(verb, "--help")[1]


def test_help_speaks_the_language_of_the_command_line(genrec):
    out = " ".join(genrec("quantize", "--help")[1].split())
    for expected in (
        "vectors folder of item vectors.",
        "--seed N key of the tie order (the quantizer has its own seed). (default: 0)",
        "--quantizer {NAME: VALUE,...} `type` (",
        "(default: {type: rq-kmeans})",
        "--progress {true,false} show progress bars. (default: true)",
        "--collaborative COLLABORATIVE folder of vectors of the same items",
        "(rq-vae with `alignment`). --seed N",
    ):
        assert expected in out
    assert "(default: [5, 10, 20])" in genrec("evaluate", "--help")[1]


def test_the_overview_says_what_the_functions_say():
    for verb, description in cli.VERBS.items():
        if verb not in GROUPS:
            assert inspect.getdoc(function(verb)).splitlines()[0] == description


def test_the_overview_imports_nothing_heavy():
    code = (
        "import sys\nfrom genrec.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print([name for name in ('torch', 'transformers', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert all(f"    {verb} " in done for verb in cli.VERBS)
    assert done.splitlines()[-1] == "[]"


def test_version(genrec):
    import genrec as package

    code, out, _ = genrec("--version")
    assert (code, out.split()) == (0, ["genrec", package.__version__])


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "subcommand"),
        (["trian"], "did you mean train? see genrec --help"),
        (["train"], "the following arguments are required"),
        (["prepare"], "subcommand"),
        (["prepare", "excel", "a", "b"], "invalid choice: 'excel'"),
        (["train", "a", "b", "--epoch", "3"], "did you mean --training.epochs? see genrec train"),
        (
            ["train", "a", "b", "--nothing-like-it", "3"],
            "--nothing-like-it 3 see genrec train --help",
        ),
        (["train", "a", "b", "--vocab", "c"], "did you mean --vocabulary?"),
        (["train", "a", "b", "--training.epochs", "many"], "epochs: 'many' is not a whole number"),
        (
            ["evaluate", "a", "b", "--beams", "50"],
            "--beams: '50' is not a list, which is written '[",
        ),
        (["train", "a", "b", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["quantize", "a", "b", "--collisions", "alow"], "collisions"),
        (["run", "nowhere.yaml"], "nowhere.yaml: cannot be read (No such file"),
    ],
)
def test_a_command_that_is_misspelt_or_incomplete(genrec, args, expected):
    code, _, err = genrec(*args)
    assert code == 2
    assert expected in err.replace("\n", " ")
    assert "usage:" not in err


def example(verb: str, source: str = "") -> list[str]:
    """The words of a verb's example, without `genrec`."""
    return shlex.split(cli._example(function(verb, source)).removeprefix(cli.EXAMPLE))[1:]


def test_the_examples_work_one_after_the_other(genrec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    smaller = {
        "prepare": ["--num_items=150", "--num_users=120", "--max_length=14"],
        "quantize": ["--quantizer.codebook_sizes=[8,8,8]"],
        "train": ["--training.epochs=1", "--d_model=16", "--backbone.layers=1"],
        "evaluate": ["--bootstrap=20"],
    }
    outputs, notes = {}, {}
    verbs = ("prepare", "embed", "quantize", "inspect", "refresh", "export-sids", "import-sids")
    for verb in (*verbs, "train", "evaluate", "recommend"):
        words = example(verb, "generated" if verb == "prepare" else "")
        code, out, err = genrec(*words, *smaller.get(verb, []))
        assert code == 0, err
        outputs[verb], notes[verb] = out, err
    assert "SID vocabulary of 150 items" in outputs["quantize"]
    assert "SID vocabulary of 150 items" in outputs["inspect"]
    assert "SID vocabulary of 150 items" in outputs["import-sids"]
    assert "0.00% of the items kept" in outputs["refresh"]
    assert "150 vectors x 64 in " in notes["embed"]
    assert notes["train"].splitlines()[0].startswith("epoch 1  validation ndcg@10 ")
    assert notes["train"].splitlines()[1].startswith("kept epoch 1 (validation NDCG@10 ")
    assert "popularity" in outputs["evaluate"]
    assert "report: runs/report/report.html" in outputs["evaluate"]
    assert (tmp_path / "runs/report/report.html").is_file()
    assert "for you" in outputs["recommend"]
    assert outputs["recommend"].count("G0") == 5
    embedding = (tmp_path / "runs/vectors/embedding.json").read_text()
    assert '"template": "{title}. {category}"' in embedding


def test_the_example_of_run_is_a_recipe_of_the_repository(genrec, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(
        "genrec.pipeline.recipe.Stages.do", lambda self, name, *a, **k: called.append(name)
    )
    monkeypatch.chdir(cli.__file__.removesuffix("genrec/cli.py"))
    code, _, err = genrec(*example("run"), "--out", tmp_path / "out")
    assert code == 0, err
    assert called[0] == "dataset"
    assert called[-1] == "report"


def test_a_warning_is_a_line_without_its_place_in_the_code(genrec, shop, tmp_path):
    code, _, err = genrec(
        "embed", shop / "dataset", tmp_path / "vectors", "--embedder.type", "lexical",
        "--embedder.template", "{title}", "--embedder.dim", 5000,
    )  # fmt: skip
    assert code == 0
    assert "note: the TF-IDF matrix has only" in err
    assert "UserWarning" not in err and ".py:" not in err


def test_prepare_tables(genrec, tmp_path):
    export = tmp_path / "exports"
    export.mkdir()
    rows = [(c, f"i{(c + n) % 9}", f"2024-01-0{n + 1}") for c in range(12) for n in range(5)]
    table = pd.DataFrame(rows, columns=["customer", "item_id", "bought_at"])
    table.to_csv(export / "interactions.csv", index=False)
    words = example("prepare", "tables")
    words[2:4] = [str(tmp_path / "shop"), str(export)]
    code, _, err = genrec(*words)
    assert code == 0, err
    assert f"12 users, 9 items, 60 events, saved in {tmp_path / 'shop'}" in err
    from genrec.data import Dataset

    data = Dataset.load(tmp_path / "shop")
    assert (len(data.catalog), len(data.histories), data.histories.num_events) == (9, 12, 60)


def test_prepare_movielens_and_recommend_by_whole_numbers(genrec, tmp_path, monkeypatch):
    source = tmp_path / "ml"
    source.mkdir()
    rows = [(u, m, 4.0, 1000 + n) for u in range(1, 30) for n, m in enumerate(range(u, u + 6))]
    ratings = pd.DataFrame(rows, columns=["userId", "movieId", "rating", "timestamp"])
    ratings.to_csv(source / "ratings.csv", index=False)
    movies = [(m, f"Movie {m} [IMAX] (1999)", "Drama|War") for m in range(1, 40)]
    table = pd.DataFrame(movies, columns=["movieId", "title", "genres"])
    table.to_csv(source / "movies.csv", index=False)
    words = example("prepare", "movielens")
    words[2:5] = [str(tmp_path / "movies"), "--path", str(source)]
    code, _, err = genrec(*words)
    assert code == 0, err
    run = tmp_path / "run"
    plan = ["--item_encoder.type=id", "--head.type=dense", "--d_model=8", "--training.epochs=1"]
    assert genrec("train", tmp_path / "movies", run, *plan, "--progress=false")[0] == 0
    for items in ("3,4,5", "[3, 4, 5]", '["3", "4"]'):
        code, out, err = genrec("recommend", run, "--items", items, "--k", "3")
        assert code == 0, err
        assert out.count("[IMAX]") == 3
    code, out, err = genrec("recommend", run, "--users", "7", "--k", "3")
    assert code == 0, err
    assert "for 7" in out


def test_prepare_amazon(genrec, tmp_path):
    source = tmp_path / "downloads"
    source.mkdir()
    lines = [
        f'{{"reviewerID": "R{r}", "asin": "A{(r + n) % 6}", "overall": 5.0, '
        f'"unixReviewTime": {1_300_000_000 + 86_400 * n}}}'
        for r in range(8)
        for n in range(5)
    ]
    (source / "reviews_Beauty_5.json").write_text("\n".join(lines) + "\n")
    meta = [f"{{'asin': 'A{n}', 'title': 'Item {n}'}}" for n in range(6)]
    (source / "meta_Beauty.json").write_text("\n".join(meta) + "\n")
    words = example("prepare", "amazon")
    words[2:5] = [str(tmp_path / "beauty"), "--path", str(source)]
    code, _, err = genrec(*words)
    assert code == 0, err
    assert (tmp_path / "beauty/items.parquet").is_file()


def test_a_configuration_file_for_one_verb_and_for_all(genrec, shop, tmp_path):
    one = tmp_path / "train.yaml"
    one.write_text(
        f"dataset: {shop / 'dataset'}\nout: {tmp_path / 'a'}\nitem_encoder: {{type: id}}\n"
        "head: {type: dense}\nd_model: 8\ntraining: {epochs: 1, learning_rate: 1e-2}\n"
    )
    code, _, err = genrec("train", "--config", one, "--progress", "false", "--training.seed=3")
    assert code == 0, err
    from genrec.pipeline import Run

    config = Run.open(tmp_path / "a").config
    assert config["training"]["learning_rate"] == 0.01
    assert config["training"]["seed"] == 3
    whole = tmp_path / "all.yaml"
    whole.write_text(f"inspect:\n  vocabulary: {shop / 'vocabulary'}\n")
    code, out, err = genrec("--config", whole, "inspect")
    assert code == 0, err
    assert "SID vocabulary of 150 items" in out


def test_a_printed_configuration_is_one_that_can_be_read(genrec, shop, tmp_path):
    words = ["train", shop / "dataset", tmp_path / "run", "--head.type", "dense", "--d_model=8"]
    words += ["--item_encoder.type=id", "--training.epochs=1", "--progress=false"]
    code, out, _ = genrec(*words, "--print_config")
    assert code == 0
    assert "epochs: 1" in out
    assert not (tmp_path / "run").exists()
    (tmp_path / "printed.yaml").write_text(out)
    code, _, err = genrec("train", "--config", tmp_path / "printed.yaml")
    assert code == 0, err
    assert (tmp_path / "run/run.json").is_file()


def test_ctrl_c_says_how_to_go_on(genrec, shop, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("genrec.tokenizers.SidVocabulary.from_pretrained", interrupted)
    code, _, err = genrec("inspect", shop / "vocabulary")
    assert code == 130
    assert "run the same command again" in err


def test_the_command_is_installed_and_exits_with_2(shop):
    command = os.path.join(os.path.dirname(sys.executable), "genrec")
    done = subprocess.run(
        [command, "inspect", str(shop / "vectors")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "expected a 'sid-vocabulary' folder" in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PyTorch for Linux has libgomp")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "GOMP_SPINCOUNT = '3000'"),
        ({"GOMP_SPINCOUNT": "7"}, "GOMP_SPINCOUNT = '7'"),
        ({"OMP_WAIT_POLICY": "passive"}, "GOMP_SPINCOUNT = '0'"),
    ],
)
def test_threads_spin_shortly_unless_told_otherwise(given, expected):
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    done = subprocess.run(
        [sys.executable, "-m", "genrec.cli", "prepare", "--help"],
        env={**environment, **given, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    shown = [line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert shown
    assert all(expected in line for line in shown)
