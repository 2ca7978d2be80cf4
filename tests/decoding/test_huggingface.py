"""`generate()` of tiny random models against `prefix_allowed_tokens_fn` over a dict trie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from genrec.decoding import Filter, PrefixTrie
from genrec.decoding.huggingface import SidLogitsProcessor
from genrec.errors import ConfigError

PAD, EOS, FIRST, SIZES = 0, 1, 10, (6, 5, 7)
VOCABULARY = FIRST + sum(SIZES) + 3
TOKENS = [list(range(FIRST + a, FIRST + a + s)) for s, a in zip(SIZES, (0, 6, 11), strict=True)]


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=1.0,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def t5():
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        initializer_factor=3.0,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )
    return T5ForConditionalGeneration(config).eval()


def prompts(lengths=(5, 2, 7), seed=0):
    """Left-padded prompts of unequal length."""
    rng, longest = np.random.default_rng(seed), max(lengths)
    ids = np.full((len(lengths), longest), PAD)
    for row, length in enumerate(lengths):
        ids[row, longest - length :] = rng.integers(2, VOCABULARY, length)
    ids = torch.from_numpy(ids)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def catalog(kind, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "one item":
        return np.array([[3, 2, 1]])
    if kind == "few":  # fewer tuples than beams
        return np.array([[0, 0, 0], [0, 0, 1], [5, 4, 6]])
    if kind == "full":
        return np.stack(np.unravel_index(rng.permutation(210), SIZES), axis=1)
    return np.stack([rng.integers(0, size, 60) for size in SIZES], axis=1)  # collisions


def dict_trie(codes, start, allowed=None):
    """The usual way: a function of one row that looks its prefix up in a dict."""

    def allowed_tokens(batch, ids):
        prefix = tuple((ids[start:]).tolist())
        rows = codes if allowed is None else codes[allowed[batch]]
        tokens = [tuple(TOKENS[i][c] for i, c in enumerate(row)) for row in rows.tolist()]
        here = {
            row[len(prefix)]
            for row in tokens
            if len(row) > len(prefix) and row[: len(prefix)] == prefix
        }
        return sorted(here) or [EOS]

    return allowed_tokens


MODES = {
    "greedy": {},
    "beams": {"num_beams": 4, "num_return_sequences": 4},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
}


def run(model, inputs, mode, **constraint):
    torch.manual_seed(1)
    out = model.generate(
        **inputs,
        **MODES[mode],
        max_new_tokens=len(SIZES) + 2,
        return_dict_in_generate=True,
        output_scores=True,
        **constraint,
    )
    return out.sequences, getattr(out, "sequences_scores", torch.zeros(len(out.sequences)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["collisions", "full", "few", "one item"])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_generate_equals_a_dict_trie(family, kind, mode, request):
    model, codes, inputs = request.getfixturevalue(family), catalog(kind), prompts()
    trie = PrefixTrie.from_codes(codes, SIZES)
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS)
    start = inputs["input_ids"].shape[1] if family == "llama" else 1
    found, scores = run(model, inputs, mode, logits_processor=[processor])
    fn = dict_trie(codes, start)
    expected, expected_scores = run(model, inputs, mode, prefix_allowed_tokens_fn=fn)
    real = expected_scores > -1e6  # generate() fills missing beams with others of score -inf
    assert real.any()
    assert torch.equal(found[real], expected[real])
    assert torch.allclose(scores[real], expected_scores[real])
    assert (scores[~real] < -1e6).all()
    leaves = processor.leaves(found)[real]
    assert (leaves >= 0).all()
    written = found[real][:, start : start + 3]
    spelled = torch.stack(
        [torch.tensor(TOKENS[i])[trie.leaf_codes(leaves)[:, i]] for i in range(3)], 1
    )
    assert torch.equal(written, spelled)
    assert (found[real][:, start + 3] == EOS).all()


def test_one_processor_serves_one_generate_after_another(llama):
    trie = PrefixTrie.from_codes(catalog("collisions"), SIZES)
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS)
    for lengths in ((5, 2), (9, 3), (10, 1), (4,), (5,)):
        inputs = prompts(lengths, seed=len(lengths))
        fresh = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS)
        found = run(llama, inputs, "beams", logits_processor=[processor])
        expected = run(llama, inputs, "beams", logits_processor=[fresh])
        assert torch.equal(found[0], expected[0])
        assert (processor.leaves(found[0]) >= 0).all()


@pytest.mark.parametrize("forget", ["leaves", "reset"])
@pytest.mark.parametrize("new_tokens", [3, 4])
def test_the_last_output_can_be_the_next_prompt(llama, new_tokens, forget):
    trie = PrefixTrie.from_codes(catalog("full"), SIZES)
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS)
    sequences = prompts((5, 2))["input_ids"]
    for _ in range(3):
        start = sequences.shape[1]
        sequences = llama.generate(
            input_ids=sequences,
            attention_mask=torch.ones_like(sequences),
            logits_processor=[processor],
            max_new_tokens=new_tokens,
        )
        if forget == "reset":
            written = processor._walk(sequences[:, start : start + 3])
            processor.reset()
        else:
            written = processor.leaves(sequences)
            assert torch.equal(processor.leaves(sequences), written)
        assert sequences.shape[1] == start + new_tokens
        codes = torch.stack([trie.leaf_codes(written)[:, level] for level in range(3)], 1)
        tokens = torch.stack([torch.tensor(TOKENS[i])[codes[:, i]] for i in range(3)], 1)
        assert (written >= 0).all()
        assert torch.equal(sequences[:, start : start + 3], tokens)


@pytest.mark.parametrize("shared", [True, False])
def test_filters_and_removed_items_never_come_out(llama, shared):
    codes, inputs = catalog("full"), prompts()
    rng = np.random.default_rng(0)
    allowed = rng.random((1 if shared else 3, 210)) < 0.2
    trie = PrefixTrie.from_codes(codes, SIZES).remove(range(20))
    some = Filter.from_mask(trie, allowed)
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS, filter=some)
    found, scores = run(llama, inputs, "beams", logits_processor=[processor])
    rows = np.broadcast_to(allowed, (3, 210)) & (np.arange(210) >= 20)
    fn = dict_trie(codes, inputs["input_ids"].shape[1], rows)
    expected, expected_scores = run(llama, inputs, "beams", prefix_allowed_tokens_fn=fn)
    assert torch.equal(found, expected)
    assert torch.allclose(scores, expected_scores)
    for row, leaf in enumerate(processor.leaves(found).tolist()):
        assert rows[row // 4][trie.bucket(leaf).tolist()].any()


def test_rows_are_found_again_under_any_order_and_stay_dead():
    codes = catalog("collisions")
    trie = PrefixTrie.from_codes(codes, SIZES)
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS)
    rng = np.random.default_rng(0)
    ids, scores = torch.tensor([[2, 3]] * 8), torch.zeros(8, VOCABULARY)
    for level in range(4):
        out = processor(ids, scores)
        for row, prefix in enumerate(ids[:, 2:].tolist()):
            below = {tuple(r[: level + 1]) for r in codes.tolist()}
            expected = {t for t in range(VOCABULARY) if spells(prefix, t, below)}
            if level == 3:
                expected = (
                    {EOS}
                    if tuple(p - TOKENS[i][0] for i, p in enumerate(prefix)) in below
                    else set()
                )
            assert set((out[row] > -torch.inf).nonzero().flatten().tolist()) == expected
        order = torch.from_numpy(rng.integers(0, 8, 8))
        tokens = torch.from_numpy(rng.integers(0, VOCABULARY, 8))  # some beams leave the trie
        valid = out[order].argmax(dim=1)
        tokens = torch.where(torch.from_numpy(rng.random(8) < 0.7), valid, tokens)
        ids = torch.cat([ids[order], tokens[:, None]], dim=1)


def spells(prefix, token, below):
    row = (*prefix, token)
    if len(row) > 3 or any(t not in TOKENS[i] for i, t in enumerate(row)):
        return False
    return tuple(t - TOKENS[i][0] for i, t in enumerate(row)) in below


def test_without_an_end_token_everything_is_let_through_after_the_sid():
    trie = PrefixTrie.from_codes([[0, 0, 0]], SIZES)
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=None, prompt_length=1)
    ids, scores = torch.tensor([[2]]), torch.zeros(1, VOCABULARY)
    for level in range(3):
        assert (processor(ids, scores) > -torch.inf).sum() == 1
        ids = torch.cat([ids, torch.tensor([[TOKENS[level][0]]])], dim=1)
    assert torch.equal(processor(ids, scores), scores)
    assert processor.leaves(ids).tolist() == [0]
    assert processor.leaves(ids[:, :-1]).tolist() == [-1]


@pytest.mark.parametrize(
    ("tokens", "eos", "message"),
    [
        (TOKENS[:2], EOS, r"expected one token per code, \(6, 5, 7\)"),
        ([TOKENS[0], TOKENS[1], TOKENS[2][:-1]], EOS, "expected one token per code"),
        ([TOKENS[0], [3, 3, 4, 5, 6], TOKENS[2]], EOS, "level 1: token 3 stands for 2 codes"),
        ([TOKENS[0], [-1, 3, 4, 5, 6], TOKENS[2]], EOS, "level 1 hold -1"),
        ([TOKENS[0], [0.5, 3, 4, 5, 6], TOKENS[2]], EOS, "level 1 are torch.float32"),
        (TOKENS, -1, "eos_token_id=-1: expected a token"),
        (TOKENS, TOKENS[1][2], "eos_token_id=18 is the token of a code of level 1"),
    ],
)
def test_malformed_tokens_are_named(tokens, eos, message):
    trie = PrefixTrie.from_codes([[0, 0, 0]], SIZES)
    with pytest.raises(ConfigError, match=message):
        SidLogitsProcessor(trie, tokens, eos_token_id=eos)


def test_small_vocabularies_and_filters_of_other_batches_are_errors():
    trie = PrefixTrie.from_codes([[0, 0, 0]], SIZES)
    ids = torch.tensor([[2], [3], [4]])
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS)
    with pytest.raises(ConfigError, match="scores of 20 tokens, but the SIDs use token 27"):
        processor(ids, torch.zeros(3, 20))
    two = Filter.allow(trie, [[0], [0]])
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS, filter=two)
    with pytest.raises(ConfigError, match="3 rows for a filter of 2 prompts"):
        processor(ids, torch.zeros(3, VOCABULARY))
    with pytest.raises(ConfigError, match="made for another trie"):
        SidLogitsProcessor(trie.add([[1, 1, 1]]), TOKENS, eos_token_id=EOS, filter=two)


def test_drafts_of_an_assistant_are_constrained_as_well(llama):
    torch.manual_seed(5)
    draft = LlamaForCausalLM(llama.config).eval()
    trie = PrefixTrie.from_codes(catalog("collisions"), SIZES)
    for seed in range(4):
        inputs = prompts((6,), seed)
        fresh = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS)
        plain = llama.generate(**inputs, logits_processor=[fresh], max_new_tokens=4)
        for sample in (False, True):
            processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS)
            found = llama.generate(
                **inputs,
                logits_processor=[processor],
                assistant_model=draft,
                do_sample=sample,
                max_new_tokens=4,
            )
            assert processor.leaves(found).item() >= 0
            assert sample or torch.equal(found, plain)


def test_prompts_that_grow_by_any_token_are_never_let_go_free():
    trie = PrefixTrie.from_codes([[1], [4]], SIZES[:1])
    scores = torch.zeros(2, VOCABULARY)
    ids = torch.tensor([[2, 3], [2, 4]])
    grown = torch.cat([ids, torch.tensor([[3], [3]])], dim=1)  # token 3 is no code
    processor = SidLogitsProcessor(trie, TOKENS[:1], eos_token_id=EOS)
    processor(ids, scores)
    with pytest.raises(ConfigError, match=r"row 0: no token .* after 2 tokens.*or give prompt_"):
        processor(grown, scores)
    processor.reset()
    allowed = (processor(grown, scores) > -torch.inf).nonzero()
    assert allowed.tolist() == [[0, 11], [0, 14], [1, 11], [1, 14]]
    processor = SidLogitsProcessor(trie, TOKENS[:1], eos_token_id=EOS, prompt_length=2)
    processor(ids, scores)
    processor.prompt_length = 3
    assert torch.equal((processor(grown, scores) > -torch.inf).nonzero(), allowed)
    with pytest.raises(ConfigError, match="rows of 2 tokens, but prompt_length=3"):
        processor(ids, scores)


def test_a_prompt_with_one_more_item_needs_a_word_without_an_end_token(llama):
    trie = PrefixTrie.from_codes(catalog("full"), SIZES)
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=None)
    inputs = prompts((5, 2))
    options = {"logits_processor": [processor], "max_new_tokens": 3, "do_sample": True}
    found = llama.generate(**inputs, **options)
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 3), value=1)
    grown = {"input_ids": found, "attention_mask": mask}
    with pytest.raises(ConfigError, match="8 tokens continue the last prompts of 5 by a sem"):
        llama.generate(**grown, **options)
    assert (processor.leaves(found) >= 0).all()
    again = llama.generate(**grown, **options)
    assert (processor.leaves(again) >= 0).all()
    assert again.shape == (2, 11)


@pytest.mark.parametrize(("count", "levels"), [(1, (2, 1, 3, 2, 0, 1)), (2, (2, 3, 0, 1, 3))])
def test_lengths_that_jump_and_other_rows_are_walked_from_their_tokens(count, levels):
    codes = catalog("collisions")
    trie = PrefixTrie.from_codes(codes, SIZES)
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS)
    scores = torch.zeros(count, VOCABULARY)
    prompt = torch.tensor([[2, 3], [5, 6]])[:count]
    processor(prompt, scores)
    rng = np.random.default_rng(0)
    for level in levels:
        rows, order = codes[rng.integers(0, 60, count)], rng.permutation(count)
        spelled = torch.tensor([[TOKENS[i][row[i]] for i in range(level)] for row in rows])
        ids = torch.cat([prompt[order], spelled.long().view(count, level)], dim=1)
        out = processor(ids, scores)
        for row, codes_of in enumerate(rows.tolist()):
            found = (out[row] > -torch.inf).nonzero().flatten().tolist()
            below = (
                {r[level] for r in codes.tolist() if r[:level] == codes_of[:level]}
                if (level < 3)
                else set()
            )
            assert found == (sorted(TOKENS[level][c] for c in below) if level < 3 else [EOS])


def test_rows_of_a_filter_belong_to_equal_shares_of_the_batch():
    trie = PrefixTrie.from_codes(catalog("full"), SIZES)
    two = Filter.allow(trie, [[0], [1]])
    ids, scores = torch.tensor([[2], [3], [4], [5]]), torch.zeros(4, VOCABULARY)
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS, filter=two)
    with pytest.raises(ConfigError, match="4 rows for a filter of 2 prompts"):
        processor(ids, scores)
    out = processor(ids[[0, 0, 3, 3]], scores) > -torch.inf
    first = torch.tensor(TOKENS[0])[torch.from_numpy(catalog("full")[:2, 0])]
    assert out.nonzero()[:, 1].tolist() == first.repeat_interleave(2).tolist()
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS, filter=two, rows_per_prompt=1)
    with pytest.raises(ConfigError, match=r"4 rows .* rows_per_prompt=1"):
        processor(ids[[0, 0, 3, 3]], scores)
    assert (processor(ids[:2], scores) > -torch.inf).sum() == 2
    with pytest.raises(ConfigError, match="rows_per_prompt=0: expected at least 1"):
        SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS, rows_per_prompt=0)


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_without_an_allowed_item_ends_and_disturbs_no_other(llama, mode):
    trie = PrefixTrie.from_codes(catalog("full"), SIZES)
    some = Filter.allow(trie, [[3, 4, 5], [-1, -1, -1], [6, 7, 8]])
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS, filter=some)
    inputs = prompts()
    found, _ = run(llama, inputs, mode, logits_processor=[processor])
    leaves = processor.leaves(found).view(3, -1)
    assert (leaves[1] == -1).all()
    assert (found.view(3, -1, found.shape[1])[1, 0, 7:8] == EOS).all()
    for row, items in ((0, {3, 4, 5}), (2, {6, 7, 8})):
        assert trie.bucket(int(leaves[row, 0]))[0].item() in items
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=None, filter=some)
    with pytest.raises(ConfigError, match="no allowed item; leave it out, or give eos_token_id"):
        run(llama, inputs, mode, logits_processor=[processor])


def test_tokens_that_another_rule_forces_are_an_error():
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=32,
        pad_token_id=PAD,
        bos_token_id=2,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
        forced_bos_token_id=2,
        forced_eos_token_id=EOS,
    )
    model, inputs = BartForConditionalGeneration(config).eval(), prompts((5, 3))
    trie = PrefixTrie.from_codes(catalog("collisions"), SIZES)
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS)
    options = {"logits_processor": [processor], "num_beams": 3}
    with pytest.raises(ConfigError, match="forced_bos_token_id"):
        model.generate(**inputs, **options, forced_bos_token_id=2, max_new_tokens=4)
    with pytest.raises(ConfigError, match="max_new_tokens of at least 4"):
        model.generate(
            **inputs, **options, forced_bos_token_id=None, forced_eos_token_id=EOS, max_new_tokens=3
        )
    found = model.generate(
        **inputs, **options, forced_bos_token_id=None, forced_eos_token_id=EOS, max_new_tokens=4
    )
    assert (processor.leaves(found) >= 0).all()


def test_leaves_without_a_generate_are_an_error():
    trie = PrefixTrie.from_codes([[0, 0, 0]], SIZES)
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS)
    with pytest.raises(ConfigError, match="no generate"):
        processor.leaves(torch.tensor([[2]]))


def test_the_last_output_as_the_next_prompts_of_a_batch_is_an_error_and_not_an_end(llama):
    trie = PrefixTrie.from_codes(catalog("full"), SIZES)
    processor = SidLogitsProcessor(trie, TOKENS, eos_token_id=EOS)
    options = {"logits_processor": [processor], "max_new_tokens": 4}
    found = llama.generate(**prompts((5, 5)), **options)[:, :-1]
    grown = {"input_ids": found, "attention_mask": torch.ones_like(found)}
    with pytest.raises(ConfigError, match="2 rows of 8 tokens, which continue the last prompts"):
        llama.generate(**grown, **options)
    processor.reset()
    assert (processor.leaves(llama.generate(**grown, **options)) >= 0).all()
