from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, DynamicCache

from genrec.decoding import PrefixTrie
from genrec.errors import ConfigError
from genrec.models import BeamState, Recommender, RecommenderConfig, SequenceMeta
from genrec.models.backbones import HuggingFaceDecoder
from genrec.models.backbones.shared_attention import shared_attention

WIDTH = 16
LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}


def plain(ours: HuggingFaceDecoder) -> torch.nn.Module:
    """The same weights in the model that transformers itself makes."""
    config = AutoConfig.for_model(**ours.model.config.to_dict())
    theirs = AutoModel.from_config(config, attn_implementation="eager").eval()
    missing = theirs.load_state_dict(ours.model.state_dict(), strict=False).missing_keys
    assert missing in (["embed_tokens.weight"], ["wte.weight"])
    return theirs


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2"])
def test_decodes_as_transformers_with_a_cache_per_beam(architecture: str) -> None:
    """Their way: the history's cache repeated for every beam and reordered at every step."""
    torch.manual_seed(0)
    ours = HuggingFaceDecoder(d_model=WIDTH, max_length=20, architecture=architecture, heads=4)
    theirs = plain(ours.eval())
    users, width, length = 2, 3, 6
    history = torch.randn(users, length, WIDTH)
    meta = SequenceMeta.from_mask(torch.ones(users, length, dtype=torch.bool))
    context = ours.encode(history, meta)
    cache = DynamicCache(config=theirs.config)
    known = inspect.signature(type(theirs).forward).parameters
    kept = {"cache" if "cache" in known else "past_key_values": cache, "use_cache": True}
    out = theirs(inputs_embeds=history, **kept)
    torch.testing.assert_close(context.hidden, out.last_hidden_state, atol=1e-5, rtol=1e-5)
    cache.batch_repeat_interleave(width)
    beams, parent = BeamState(), torch.zeros(users, width, dtype=torch.int64)
    for level in range(3):
        tokens = torch.randn(users, width, WIDTH)
        hidden, beams = ours.decode_step(tokens, meta.next_item(level), context, beams, parent)
        out = theirs(inputs_embeds=tokens.flatten(0, 1)[:, None], **kept)
        torch.testing.assert_close(
            hidden.flatten(0, 1), out.last_hidden_state[:, 0], atol=1e-5, rtol=1e-5
        )
        parent = torch.randint(0, width, (users, width))
        cache.reorder_cache((parent + width * torch.arange(users)[:, None]).flatten())


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_parameter_count(architecture: str) -> None:
    d, layers, heads, shared, head, ffn = WIDTH, 3, 4, 2, 6, 24
    ours = HuggingFaceDecoder(
        d_model=d,
        max_length=20,
        architecture=architecture,
        layers=layers,
        heads=heads,
        kv_heads=shared,
        ffn=ffn,
        config={"head_dim": head},
    )
    attention = 2 * d * heads * head + 2 * d * shared * head
    norms = 2 * d + (2 * head if architecture == "qwen3" else 0)  # Qwen3's, of queries and keys
    layer = attention + 3 * d * ffn + norms
    assert sum(p.numel() for p in ours.parameters()) == layers * layer + d


def test_the_configuration_reaches_the_model() -> None:
    made = HuggingFaceDecoder(
        d_model=WIDTH,
        max_length=20,
        layers=3,
        heads=4,
        kv_heads=2,
        ffn=24,
        config={"head_dim": 6, "attention_dropout": 0.25},
    ).model
    assert made.config.model_type == "qwen3"
    layer = made.layers[2]
    assert len(made.layers) == 3
    assert layer.self_attn.q_proj.weight.shape == (4 * 6, WIDTH)
    assert layer.self_attn.k_proj.weight.shape == (2 * 6, WIDTH)
    assert layer.mlp.gate_proj.weight.shape == (24, WIDTH)
    assert layer.self_attn.attention_dropout == 0.25
    # There is nothing to look tokens up in.
    assert not [name for name, _ in made.named_parameters() if "embed" in name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "qwen33"}, "did you mean 'qwen3'"),
        ({"config": {"head_dims": 4}}, "no key 'head_dims'.*did you mean 'head_dim'"),
        ({"config": {"vocab_size": 4}}, "vocab_size"),
        ({"heads": 3}, "give config: {head_dim"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads=3 does not divide"),
        ({"layers": 0}, "layers=0"),
        ({"config": {"num_attention_heads": "few"}}, "num_attention_heads='few'"),
        ({"config": {"head_dim": "wide"}}, "backbone 'hf': 'qwen3': .*head_dim"),
        ({"architecture": "bert"}, "'bert' is not a causal decoder"),
        ({"architecture": "mamba"}, "'mamba' is not a causal decoder"),
        ({"architecture": "falcon"}, "'falcon' is not a causal decoder"),
        ({"architecture": "qwen3", "config": {"hidden_act": "gelo"}}, "'qwen3': 'gelo'"),
        ({"lora": LORA}, "random without pretrained"),
        # What would do nothing.
        ({"architecture": "gpt2", "ffn": 24}, "ffn=24: 'gpt2' has no intermediate_size"),
        ({"architecture": "gpt2", "heads": 4, "kv_heads": 2}, "kv_heads=2: 'gpt2' has no num_key"),
        ({"layers": 2, "config": {"num_hidden_layers": 3}}, "layers=2, but config says num_hidden"),
        (
            {"architecture": "gpt2", "heads": 4, "config": {"n_head": 2}},
            "heads=4, but config says n_head: 2",
        ),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HuggingFaceDecoder(d_model=WIDTH, max_length=8, **options)


def test_heads_of_the_configuration_share_the_width() -> None:
    made = HuggingFaceDecoder(d_model=WIDTH, max_length=8, config={"num_attention_heads": 4}).model
    assert made.layers[0].self_attn.q_proj.weight.shape == (WIDTH, WIDTH)
    assert made.layers[0].self_attn.k_proj.weight.shape == (WIDTH, WIDTH)


def test_a_size_under_another_name_is_said_in_the_configuration() -> None:
    made = HuggingFaceDecoder(
        d_model=WIDTH,
        max_length=8,
        architecture="gpt2",
        heads=4,
        kv_heads=4,
        config={"n_inner": 24},
    )
    assert made.model.h[0].mlp.c_fc.weight.shape == (WIDTH, 24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "stablelm"}, "'stablelm' .*: 0 of its 2 layers"),
        (
            {"architecture": "lfm2", "config": {"layer_types": ["conv", "full_attention"]}},
            "'lfm2' .*: 1 of its 2 layers",
        ),
        ({"architecture": "gptj"}, "'gptj' cannot be decoded .* use qwen3"),
        ({"architecture": "gemma2"}, "'gemma2' cannot be decoded .*softcap"),
        ({"architecture": "gpt_oss"}, "'gpt_oss' cannot be decoded .* sinks"),
        (
            {
                "architecture": "falcon_h1",  # state spaces beside the attention of every layer
                "config": {
                    "mamba_d_ssm": 32,
                    "mamba_n_heads": 2,
                    "mamba_d_head": 16,
                    "mamba_d_state": 8,
                    "mamba_chunk_size": 8,
                },
            },
            "'falcon_h1' .* states of step [12] are .* away",
        ),
    ],
    ids=lambda value: value["architecture"] if isinstance(value, dict) else "",
)
def test_a_decoder_whose_steps_are_wrong_is_refused(options: dict, message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match=message):
        HuggingFaceDecoder(d_model=WIDTH, max_length=8, **options)


@pytest.mark.parametrize("max_length", [1, 2, 3, 8])
def test_the_trial_of_a_decoder_leaves_nothing_behind(
    max_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> tuple[HuggingFaceDecoder, torch.Tensor]:
        torch.manual_seed(0)
        shape = {"architecture": "qwen3", "config": {"attention_dropout": 0.5}}
        return HuggingFaceDecoder(d_model=WIDTH, max_length=max_length, **shape), torch.rand(3)

    tried, drawn = made()
    monkeypatch.setattr("genrec.models.backbones.huggingface.check_decoding", lambda *_, **__: None)
    untried, expected = made()
    assert torch.equal(drawn, expected)
    assert all(module.training for module in tried.modules())
    assert all(one.grad is None and one.requires_grad for one in tried.parameters())
    for (name, one), (_, other) in zip(
        tried.state_dict().items(), untried.state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name


def mixing(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """An attention in which a beam reads a little of the others of its user."""

    def mixed(*given: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        found = original(*given, **named)
        return found + 0.01 * found.mean(2, keepdim=True)

    return mixed


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2"])
def test_steps_that_mix_beams_are_refused(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "genrec.models.backbones.huggingface.shared_attention"
    monkeypatch.setattr(place, mixing(shared_attention))
    with pytest.raises(ConfigError, match=f"{architecture!r} cannot be decoded"):
        HuggingFaceDecoder(d_model=WIDTH, max_length=8, architecture=architecture)


def test_lora_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    folder = str(folder_of(tmp_path / "words"))
    with pytest.raises(ConfigError, match=r"genrec\[lora\]"):
        HuggingFaceDecoder(d_model=WIDTH, max_length=8, pretrained=folder, lora=LORA)


def test_fresh_lora_changes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = str(folder_of(tmp_path / "words"))
    parts = {"item_encoder": {"type": "sid-tokens"}, "head": {"type": "tokens"}}

    def of(lora: dict | None) -> Recommender:
        backbone = {"type": "hf", "pretrained": folder, "lora": lora}
        sizes = {"num_items": 12, "codebook_sizes": (4, 3), "d_model": WIDTH, "max_history": 5}
        return Recommender(RecommenderConfig(**sizes, backbone=backbone, **parts)).eval()

    plain, extended = of(None), of(LORA)
    assert any(one.any() for name, one in extended.named_parameters() if "lora_A" in name)
    x = torch.randn(2, 5, WIDTH)
    meta = SequenceMeta.from_mask(torch.ones(2, 5, dtype=torch.bool))
    with torch.no_grad():
        torch.testing.assert_close(
            extended.backbone(x, meta), plain.backbone(x, meta), rtol=0, atol=0
        )


def test_lora_trains_its_own_weights_only_and_is_saved(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    torch.manual_seed(0)
    sizes = (4, 3)
    folder = folder_of(tmp_path / "words")
    config = RecommenderConfig(
        num_items=12,
        codebook_sizes=sizes,
        d_model=WIDTH,
        max_history=5,
        item_encoder={"type": "sid-tokens"},
        backbone={"type": "hf", "pretrained": str(folder), "lora": LORA},
        head={"type": "tokens"},
    )
    codes = torch.stack([torch.arange(12) % 4, torch.arange(12) // 4], 1).int()
    model = Recommender(config, tables={"codes": codes})
    learning = [name for name, p in model.backbone.named_parameters() if p.requires_grad]
    assert learning and all("lora_" in name for name in learning)
    before = {name: p.clone() for name, p in model.named_parameters()}
    items = torch.randint(0, 12, (8, 5))
    mask = torch.ones(8, 4, dtype=torch.bool)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(3):
        optimiser.zero_grad()
        model(items[:, :4], mask, labels=items[:, 1:]).loss.backward()
        optimiser.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in model.named_parameters() if p.requires_grad}
    model.eval().save_pretrained(tmp_path / "saved")
    shutil.rmtree(folder)
    again = Recommender.from_pretrained(tmp_path / "saved").eval()
    trie = PrefixTrie.from_codes(codes, sizes, tie_order=model.tables.tie_order)
    data = {"items": items, "mask": torch.ones_like(items, dtype=torch.bool)}
    one, two = (each.search(data, k=12, trie=trie) for each in (model, again))
    assert torch.equal(one.items, two.items) and torch.equal(one.scores, two.scores)


def test_lora_options_are_checked(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = str(folder_of(tmp_path / "words"))
    for lora, message in (
        ({**LORA, "rank": 2}, "did you mean 'r'|unknown key 'rank'"),
        ({**LORA, "target_modules": ["query"]}, "backbone 'hf': lora: .*query"),
    ):
        with pytest.raises(ConfigError, match=message):
            HuggingFaceDecoder(d_model=WIDTH, max_length=8, pretrained=folder, lora=lora)


def folder_of(path: Path, architecture: str = "qwen3") -> Path:
    """A model as transformers saves it, with a vocabulary of words."""
    shape = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4}
    more = {} if architecture == "gpt2" else {"num_key_value_heads": 2, "intermediate_size": 20}
    if architecture == "qwen3":
        more["head_dim"] = 6
    config = AutoConfig.for_model(architecture, vocab_size=50, **shape, **more)
    AutoModel.from_config(config).save_pretrained(path)
    return path


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2"])
def test_weights_come_from_a_folder_and_then_from_the_recommender(
    architecture: str, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "words", architecture)
    config = RecommenderConfig(
        num_items=12,
        codebook_sizes=(4, 3),
        d_model=WIDTH,
        max_history=5,
        item_encoder={"type": "sid-tokens"},
        backbone={"type": "hf", "pretrained": str(folder)},
        head={"type": "tokens"},
    )
    assert config.backbone["layers"] == 3 and config.backbone["architecture"] == architecture
    model = Recommender(config).eval()
    words = AutoModel.from_pretrained(folder).eval()
    x = torch.randn(2, 5, WIDTH)
    meta = SequenceMeta.from_mask(torch.ones(2, 5, dtype=torch.bool))
    with torch.no_grad():
        expected = words(inputs_embeds=x).last_hidden_state
        torch.testing.assert_close(model.backbone(x, meta), expected, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(folder)
    again = Recommender.from_pretrained(tmp_path / "saved").eval()
    assert again.config.backbone == config.backbone
    with torch.no_grad():
        torch.testing.assert_close(again.backbone(x, meta), expected, atol=1e-5, rtol=1e-5)


def test_a_pretrained_model_gives_the_shape(tmp_path: Path) -> None:
    folder = str(folder_of(tmp_path / "words"))
    for options, message in (
        ({"pretrained": folder, "layers": 3}, "layers=3: pretrained=.* leave layers out"),
        ({"pretrained": str(tmp_path / "none")}, "is no model of transformers"),
    ):
        with pytest.raises(ConfigError, match=message):
            HuggingFaceDecoder(d_model=WIDTH, max_length=8, **options)
    with pytest.raises(ConfigError, match="set d_model: 16"):
        HuggingFaceDecoder(d_model=32, max_length=8, pretrained=folder)
    weights = tmp_path / "words" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(ConfigError, match=r"pretrained=.*words.*from safetensors only"):
        HuggingFaceDecoder(d_model=WIDTH, max_length=8, pretrained=folder)


def test_a_pretrained_model_of_short_texts_is_named(tmp_path: Path) -> None:
    config = AutoConfig.for_model("gpt2", n_embd=WIDTH, n_layer=1, n_head=2, n_positions=6)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="reads 6 tokens, not 7"):
        HuggingFaceDecoder(d_model=WIDTH, max_length=7, pretrained=str(tmp_path))
