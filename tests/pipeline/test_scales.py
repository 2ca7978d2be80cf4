from __future__ import annotations

import itertools

import pytest
import torch

from genrec.errors import ConfigError
from genrec.models import Recommender, RecommenderConfig
from genrec.pipeline.scales import PUBLISHED, SCALES, scaled


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


@pytest.mark.parametrize("scale", PUBLISHED)
def test_published_sizes_are_layers_by_width(scale: str) -> None:
    layers, width = map(int, scale.split("x"))
    found, backbone = scaled(scale, 64, {"type": "hstu", "times": "event"})
    assert (found, backbone["layers"]) == (width, layers) and width % backbone["heads"] == 0
    with torch.device("meta"):
        model = Recommender(
            RecommenderConfig(num_items=2, d_model=found, backbone=backbone, max_history=100)
        )
    matrices = [p for p in model.backbone.layers.parameters() if p.dim() == 2]
    sizes = sum(p.numel() for p in matrices)
    assert sizes == layers * 5 * width * width


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
