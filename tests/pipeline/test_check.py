"""`genrec check` prints counts, rules and published figures, and training looks at them itself."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest

from genrec.data import Dataset
from genrec.data.sources import prepare
from genrec.data.tencentgr import generate_tencentgr, published
from genrec.data.tencentgr.protocol import last_click_split
from genrec.errors import DataError
from genrec.pipeline import SplitConfig, check, train
from genrec.training import TrainingConfig


@pytest.fixture(scope="module")
def ads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ads")
    files = generate_tencentgr(root / "files", users=300, items=300, max_length=15, vectors=())
    prepare("tencentgr", root / "dataset", files, progress=False, vectors=[])
    return root / "dataset"


LAST_CLICK = SplitConfig(type="last-click")


def test_what_a_dataset_has(ads: Path, capsys: pytest.CaptureFixture[str]):
    data = Dataset.load(ads)
    split = last_click_split(data)
    found = check(str(ads), split=LAST_CLICK)
    assert found["counts"]["users"] == 300 and found["counts"]["events"] == len(
        data.histories.items
    )
    assert found["counts"]["test questions"] == len(split.test)
    assert found["counts"]["held_out"] == 30 and found["counts"]["candidates"] == 41
    assert found["published"] == {} and len(found["rules"]) == 14
    said = capsys.readouterr().out
    assert "held out without click" in said and "holds: test: the answer is a candidate" in said
    assert "no counts of this dataset were published" in said
    assert "cut=position, draw=2025" in said and "train_on=others" in said
    found = check(str(ads))
    assert found["counts"]["validation questions"] == found["counts"]["test questions"] > 200


def test_published_counts_stand_beside(
    ads: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    info = last_click_split(Dataset.load(ads)).info
    mine = {what: info[what] for what in published.HOLD_OUT}
    monkeypatch.setattr(
        published.compare_split, "__kwdefaults__", {"published": mine, "users": 300}
    )
    monkeypatch.setattr(
        published.compare_dataset,
        "__kwdefaults__",
        dict.fromkeys(published.compare_dataset.__kwdefaults__, MappingProxyType({}))
        | {"counts": {"small": {"users": 300, "candidates": 7}}},
    )
    found = check(str(ads), split=LAST_CLICK)["published"]
    assert found["users"] == {"found": 300, "published": 300, "agrees": True}
    assert found["candidates"]["agrees"] is False and found["held out"]["agrees"]
    said = capsys.readouterr().out
    assert "DIFFERS: candidates 41, published 7" in said and "agrees: held out 30" in said

    def trained(name: str) -> str:
        train(
            str(ads),
            str(ads.parent / name),
            item_encoder={"type": "id"},
            head={"type": "dense"},
            d_model=8,
            split=LAST_CLICK,
            max_history=5,
            training=TrainingConfig(epochs=1),
            progress=False,
        )
        return capsys.readouterr().err

    assert "the counts of the hold-out are those of the reference" in trained("same")
    other = {"published": {**mine, "held_out": 31}, "users": 300}
    monkeypatch.setattr(published.compare_split, "__kwdefaults__", other)
    said = trained("other")
    assert "the hold-out is not the reference's: held out 30, published 31" in said


def test_a_broken_split_trains_nothing(ads: Path, monkeypatch: pytest.MonkeyPatch):
    real = SplitConfig.apply

    def leaking(self: SplitConfig, dataset: Dataset):
        data, split = real(self, dataset)
        split.train_end[:] = data.histories.offsets[1:]
        return data, split

    monkeypatch.setattr(SplitConfig, "apply", leaking)
    for call in (
        lambda: check(str(ads), split=LAST_CLICK),
        lambda: train(
            str(ads),
            str(ads.parent / "leak"),
            item_encoder={"type": "id"},
            head={"type": "dense"},
            split=LAST_CLICK,
            progress=False,
        ),
    ):
        with pytest.raises(DataError, match="the user's training ends before the answer"):
            call()
    assert not (ads.parent / "leak").exists()
