"""`genrec VERB`: the typed functions of `genrec.pipeline` as commands."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser, auto_cli
from rich.console import Console

from genrec import pipeline
from genrec.data.sources import SOURCES
from genrec.errors import GenrecError

VERBS: dict[str, Any] = {
    "prepare": {
        "_help": "Turn a source into a dataset folder.",
        **SOURCES,
    },
    "embed": pipeline.embed,
    "quantize": pipeline.quantize,
    "inspect": pipeline.inspect,
    "train": pipeline.train,
    "evaluate": pipeline.evaluate,
    "recommend": pipeline.recommend,
    "run": pipeline.run,
}


def _example(function: Callable[..., Any]) -> tuple[str, str]:
    """First line of a function's docstring, and the command under its `Example:`."""
    text = inspect.getdoc(function) or ""
    first = text.splitlines()[0] if text else ""
    _, found, rest = text.partition("Example:\n")
    command = " ".join(line.strip() for line in rest.split("\n\n")[0].splitlines())
    return first, f"example: {command}" if found else ""


EXAMPLES = dict(
    _example(function)
    for function in (*SOURCES.values(), *(v for v in VERBS.values() if callable(v)))
)


class _Parser(ArgumentParser):
    """Shows a verb's example under its options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epilog = EXAMPLES.get((self.description or "").strip()) or self.epilog


def main(args: Sequence[str] | None = None) -> None:
    """Run a verb.

    Exit codes: 0 done, 2 bad input (the message says what to do), 130 interrupted.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        auto_cli(
            VERBS,
            args=list(args) if args is not None else None,
            prog="genrec",
            description="Generative recommendation with semantic IDs.",
            parser_class=_Parser,
        )
    except GenrecError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; run the same command again to go on")
        sys.exit(130)


if __name__ == "__main__":
    main()
