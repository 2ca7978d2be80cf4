from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
import torch

from genrec.errors import ConfigError
from genrec.models import BACKBONES, Recommender, RecommenderConfig
from genrec.pipeline.scales import PUBLISHED, SCALES, scaled


def test_each_scale_has_about_four_times_the_backbone_of_the_one_before() -> None:
    sizes = []
    for scale in SCALES:
        width, backbone = scaled(scale, None, {"type": "transformer"})
        model = Recommender(
            RecommenderConfig(num_items=2, d_model=width, backbone=backbone, max_history=20)
        )
        sizes.append(sum(p.numel() for p in model.backbone.parameters()))
    for smaller, larger in itertools.pairwise(sizes):
        assert 2.5 < larger / smaller < 5.5


@pytest.mark.parametrize("scale", PUBLISHED)
def test_published_sizes_are_layers_by_width(scale: str) -> None:
    layers, width = map(int, scale.split("x"))
    found, backbone = scaled(scale, None, {"type": "hstu", "times": "event"})
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
    assert scaled(None, None, backbone) == (64, backbone)


def sizes(name: str, scales: Mapping[str, object]) -> list[int]:
    """Parameters of a backbone at each scale."""
    found = []
    for scale in scales:
        width, backbone = scaled(scale, None, {"type": name})
        with torch.device("meta"):
            config = RecommenderConfig(num_items=2, d_model=width, backbone=backbone)
            found.append(sum(p.numel() for p in Recommender(config).backbone.parameters()))
    return found


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_every_scale(name: str) -> None:
    found = sizes(name, SCALES)
    assert all(larger > 2 * smaller for smaller, larger in itertools.pairwise(found))
    # Layers count, not the width alone: 512 wide in both, three times the layers.
    few, many = sizes(name, {"8x512": None, "24x512": None})
    assert many > 2 * few


@pytest.mark.parametrize(
    ("scale", "d_model", "backbone", "message"),
    [
        ("xm", None, {"type": "transformer"}, "scale='xm'; .*expected one of xs, s, m"),
        ("s", None, {"type": "hstu", "layers": 3}, "sets the backbone's layers, which is 3 here"),
        ("s", None, {"type": "nextitnet", "dilations": [1]}, r"sets the backbone's dilations, wh"),
        ("m", 128, {"type": "transformer"}, "scale='m' sets d_model to 96, which is 128 here"),
        ("m", 96, {"type": "transformer"}, "leave one of them out"),
    ],
)
def test_what_a_scale_cannot_set_is_said(
    scale: str, d_model: int | None, backbone: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        scaled(scale, d_model, backbone)
