"""Names of the hub are fetched by a stand-in for `huggingface_hub`; every failure is one error."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from huggingface_hub import errors as hub

from genrec.cli import main
from genrec.data.sources import prepare
from genrec.errors import ConfigError, DataError, GenrecError

NAME = "TAAC2025/TencentGR-1M"
COMMIT = "4be8735e2a7e9fc11fe7eb2a5e1e06e27c57e453"


@pytest.fixture
def asked(small: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the hub was asked for; it answers with the small download."""
    calls: list[dict[str, Any]] = []

    def fetched(name: str, **options: Any) -> str:
        calls.append({"name": name, **options})
        return str(small["huggingface"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    return calls


def fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fetched(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)


def answered(kind: Any) -> Exception:
    """An error of the hub's answer, whichever HTTP client made it."""
    made: Exception = kind("no\nmore lines", response=MagicMock(headers={}))
    return made


#: Of a connection that breaks, whichever client it is of.
broken: Any = hub.HfHubHTTPError.__mro__[1]


def test_what_is_fetched(tmp_path: Path, asked: list[dict[str, Any]]):
    dataset = prepare("tencentgr", tmp_path / "out", NAME, vectors=[81, 82], progress=False)
    assert dataset.histories.num_events > 0
    assert asked == [
        {
            "name": NAME,
            "repo_type": "dataset",
            "revision": None,
            "allow_patterns": [
                "indexer.pkl",
                *("seq/*", "user_feat/*", "item_feat/*", "candidate/*"),
                *("mm_emb/emb_81_*/*", "mm_emb/emb_82_*/*"),
            ],
        }
    ]


def test_a_revision_from_the_command_line(
    tmp_path: Path, asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    command = ["prepare", "tencentgr", str(tmp_path / "out"), "--from", NAME]
    main([*command, "--revision", COMMIT])
    assert asked[0]["revision"] == COMMIT and (tmp_path / "out" / "items.parquet").is_file()
    told = capsys.readouterr().err
    assert f"{NAME}: fetching from the hub (revision {COMMIT}): indexer.pkl, seq/*, " in told
    prepare("tencentgr", tmp_path / "newest", NAME)
    assert f"{NAME}: fetching from the hub (newest revision): " in capsys.readouterr().err
    prepare("tencentgr", tmp_path / "quiet", NAME, progress=False)
    assert capsys.readouterr().err == ""


def test_a_revision_of_a_folder(tmp_path: Path, files: Path, asked: list[dict[str, Any]]):
    with pytest.raises(ConfigError, match=f"revision='{COMMIT}': .*is a folder here"):
        prepare("tencentgr", tmp_path / "out", files, revision=COMMIT, progress=False)
    assert not asked


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            answered(hub.RevisionNotFoundError),
            ConfigError,
            f"revision='mian': {NAME} has no such commit, branch or tag on the hub",
        ),
        (
            answered(hub.RepositoryNotFoundError),
            DataError,
            f"{NAME}: no such folder, and no such dataset on the hub",
        ),
        (answered(hub.GatedRepoError), DataError, "ask for this dataset first"),
        (
            hub.LocalEntryNotFoundError("Cannot find\nan appropriate cached snapshot folder"),
            DataError,
            f"{NAME}: neither a folder here nor reachable on the hub; correct the folder",
        ),
        (OSError("Consistency check failed\n" + 50 * "long "), DataError, "run the command again"),
        (broken("timed out"), DataError, r"failed \(timed out\); run the command again"),
        (ConnectionError(), DataError, r"failed \(ConnectionError\); run"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_failures(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[GenrecError],
    message: str,
):
    fails(monkeypatch, error)
    with pytest.raises(kind, match=message) as found:
        prepare("tencentgr", tmp_path / "out", NAME, revision="mian", progress=False)
    assert len(str(found.value)) < 300 and "\n" not in str(found.value)
    assert list(tmp_path.iterdir()) == [], "nothing is left over"


@pytest.mark.parametrize("path", ["downloads", "a/b/c", "/no/such", "./a/b", "~/files", "a b/c"])
def test_paths_that_are_no_names(tmp_path: Path, asked: list[dict[str, Any]], path: str):
    with pytest.raises(DataError, match="no such folder; expected the files of TencentGR"):
        prepare("tencentgr", tmp_path / "out", path, progress=False)
    assert not asked


def test_a_mistyped_folder_without_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    fails(monkeypatch, hub.LocalEntryNotFoundError("no connection"))
    command = ["prepare", "tencentgr", str(tmp_path / "out"), "--from", "dowloads/TencentGR-1M"]
    with pytest.raises(SystemExit, match="2"):
        main(command)
    (line,) = [row for row in capsys.readouterr().err.splitlines() if "neither" in row]
    assert "dowloads/TencentGR-1M: neither a folder here nor reachable on the hub" in line
