"""Fetching the files of a name on the Hugging Face hub; every failure is one short error."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from genrec.errors import ConfigError, DataError

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LONGEST = 160


def is_name(path: str) -> bool:
    """Whether a path that is not here could be a name on the hub, `owner/dataset`."""
    return _NAME.fullmatch(path) is not None and not Path(path).exists()


def fetch(
    name: str, patterns: Sequence[str], *, revision: str | None = None, progress: bool = True
) -> Path:
    """Fetch files of a dataset into the hub's cache; what is there already is not fetched again.

    Args:
        name: `owner/dataset`.
        patterns: which files.
        revision: commit, branch or tag; the newest by default.
        progress: say what is fetched. The bars are those of `huggingface_hub`.

    Returns:
        The folder of the files.

    Raises:
        ConfigError: if the dataset has no such revision.
        DataError: if there is no such dataset, it may not be read or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # The library has changed its HTTP client twice; its own errors derive from the client's.
    client: type[BaseException] = HfHubHTTPError.__mro__[1]
    if progress:
        which = "newest revision" if revision is None else f"revision {revision}"
        tqdm.write(
            f"{name}: fetching from the hub ({which}): {', '.join(patterns)}", file=sys.stderr
        )
    try:
        found = snapshot_download(
            name, repo_type="dataset", revision=revision, allow_patterns=list(patterns)
        )
    except RevisionNotFoundError as error:
        raise ConfigError(
            f"revision={revision!r}: {name} has no such commit, branch or tag on the hub; leave it "
            "out for the newest"
        ) from error
    except GatedRepoError as error:
        raise DataError(
            f"{name}: the hub wants you to ask for this dataset first: open its page there, then "
            "run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"{name}: no such folder, and no such dataset on the hub (or none that you may read)"
        ) from error
    except LocalEntryNotFoundError as error:
        raise DataError(
            f"{name}: neither a folder here nor reachable on the hub; correct the folder, or run "
            "the command again with a connection"
        ) from error
    except (OSError, ValueError, client) as error:
        raise DataError(
            f"{name}: fetching from the hub failed ({_short(error)}); run the command again to go "
            "on, or fetch the files yourself and name their folder"
        ) from error
    return Path(found)


def _short(error: BaseException) -> str:
    first = str(error).strip().split("\n", 1)[0] or type(error).__name__
    return first if len(first) <= _LONGEST else f"{first[:_LONGEST]} ..."
