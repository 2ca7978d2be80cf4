import pytest

from genrec.artefacts import read_json, write_json
from genrec.embedding import EMBEDDERS, Embedder, FusedEmbedder, make_embedder
from genrec.errors import ConfigError

CONFIGS = [
    {"type": "text", "model": "someone/model", "template": "{title}"},
    {"type": "lexical", "columns": ["title"], "dim": 12},
    {"type": "precomputed", "path": "vectors.npy"},
    {"type": "collaborative", "window": 3},
    {
        "type": "fused",
        "parts": [{"type": "lexical", "dim": 3}, {"type": "collaborative"}],
        "weights": [1.0, 0.5],
    },
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["type"])
def test_a_configuration_survives_json_and_builds_the_same_embedder(config, tmp_path):
    embedder = make_embedder(**config)
    assert isinstance(embedder, EMBEDDERS[config["type"]])
    write_json(tmp_path / "config.json", embedder.config)
    assert make_embedder(**read_json(tmp_path / "config.json")).config == embedder.config


def test_every_embedder_is_tried_above():
    assert [config["type"] for config in CONFIGS] == list(EMBEDDERS)


def test_parts_may_be_embedders(catalog):
    part = make_embedder("lexical", dim=3)
    fused = make_embedder("fused", parts=[part, {"type": "lexical", "dim": 2}])
    assert isinstance(fused, FusedEmbedder) and fused.parts[0] is part
    assert isinstance(fused, Embedder) and fused.embed(catalog).dim == 5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "lexcal"}, "did you mean 'lexical'"),
        ({"type": "lexical", "dims": 3}, "no argument 'dims'.*did you mean 'dim'"),
        ({"type": "collaborative", "windw": 3}, "did you mean 'window'"),
        ({"type": "fused"}, "needs the argument 'parts'"),
        ({"type": "fused", "parts": [{"dim": 3}]}, "part 0.*'type'"),
        ({"type": "fused", "parts": [{"type": "lexical", "dmi": 3}]}, "'dmi'"),
        ({"type": "lexical", "dim": "many"}, "wrong type"),
        ({"type": "lexical", "seed": -1}, "lexical: seed must be from 0 to 4294967295, got -1"),
        ({"type": "collaborative", "seed": 2**32}, "collaborative: seed must be from 0"),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(ConfigError, match=message):
        make_embedder(**config)
