import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from genrec.data import Catalog, Histories, leave_one_out

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORDS = [*"abcdefg", "red", "blue", "lamp", "chair", "desk", "soap", "brush", "the", "of", "and"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A sentence-transformers model folder with random weights: 2 layers, 16 dimensions."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizer

    root = tmp_path_factory.mktemp("encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", *WORDS]
    (root / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(root / "bert")
    BertTokenizer(str(root / "vocab.txt"), model_max_length=32).save_pretrained(root / "bert")
    SentenceTransformer(str(root / "bert"), device="cpu").save(str(root / "model"))
    return root / "model"


@pytest.fixture
def catalog() -> Catalog:
    rng = np.random.default_rng(0)
    titles = [" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(40)]
    titles[3], titles[5] = None, titles[4]
    return Catalog(
        pa.table(
            {
                "item_id": [f"i{n}" for n in range(40)],
                "title": titles,
                "categories": [["lamp", "desk"] if n % 2 else ["soap"] for n in range(40)],
            }
        )
    )


@pytest.fixture
def histories() -> Histories:
    rng = np.random.default_rng(1)
    return Histories.from_lists(
        [rng.integers(0, 36, size=rng.integers(3, 15)).tolist() for _ in range(60)]
    )


@pytest.fixture
def split(histories):
    return leave_one_out(histories)
