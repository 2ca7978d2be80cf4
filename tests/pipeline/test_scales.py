from __future__ import annotations

import itertools

import pytest

from genrec.errors import ConfigError
from genrec.models import Recommender, RecommenderConfig
from genrec.pipeline.scales import SCALES, scaled


def test_each_scale_has_about_four_times_the_backbone_of_the_one_before() -> None:
    sizes = []
    for scale in SCALES:
        width, backbone = scaled(scale, 64, {"type": "transformer"})
        model = Recommender(
            RecommenderConfig(num_items=2, d_model=width, backbone=backbone, max_history=20)
        )
        sizes.append(sum(p.numel() for p in model.backbone.parameters()))
    for smaller, larger in itertools.pairwise(sizes):
        assert 2.5 < larger / smaller < 5.5


def test_without_a_scale_nothing_changes() -> None:
    backbone = {"type": "transformer", "layers": 3}
    assert scaled(None, 48, backbone) == (48, backbone)


@pytest.mark.parametrize(
    ("scale", "backbone", "message"),
    [
        ("xm", {"type": "transformer"}, "scale='xm'; .*expected one of xs, s, m"),
        ("s", {"type": "transformer", "layers": 3}, "sets the backbone's layers, which is 3 here"),
    ],
)
def test_what_a_scale_cannot_set_is_said(scale: str, backbone: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scaled(scale, 64, backbone)
