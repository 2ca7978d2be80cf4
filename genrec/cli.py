"""`genrec VERB`: the typed functions of `genrec.pipeline` as commands."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, auto_cli
from rich.console import Console
from rich.text import Text

import genrec
from genrec.errors import GenrecError

# What `genrec --help` says of each verb: the first line of its function, which is imported only
# when the verb is used. PyTorch and transformers take seconds to import.
VERBS = {
    "prepare": "Turn a source into a dataset folder.",
    "check": (
        "Count what a dataset has and its split holds out, and check that no answer is known "
        "before."
    ),
    "embed": "Turn item content (or histories) into vectors.",
    "quantize": "Quantize item vectors into a SID vocabulary.",
    "inspect": "Show the quality of a SID vocabulary.",
    "refresh": (
        "Refresh a SID vocabulary for items that came and went; those that stay keep their SIDs."
    ),
    "import-sids": "Import semantic IDs that other code made as a SID vocabulary.",
    "export-sids": "Export a SID vocabulary as a file that other code reads.",
    "train": "Train a recommender on a dataset and keep the one with the best validation NDCG@10.",
    "evaluate": "Evaluate trained runs and baselines under one protocol and write the report.",
    "recommend": "Recommend the next items of histories.",
    "bench": "Time parts of genrec beside the alternatives, on this machine.",
    "run": "Run a recipe's stages in order: prepare, embed, quantize, train, evaluate.",
}
# Of the processes that a launcher started, all work in these verbs, and the first one in others.
SHARED = ("train", "evaluate", "recommend", "run")
MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
EXAMPLE = "example: "
# What `--help` writes for a value, by the first word of its type; else the name of the option.
KINDS = (("int", "N"), ("float", "X"), ("dict", "{NAME: VALUE,...}"))
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list, which is written '[5, 10]'",
    "dict": "names and values, which are written '{name: value}'",
}
# What a recommender gives to its parts itself.
SUPPLIED = ("tables", "encoder", "d_model", "max_length")


def load_verb(verb: str) -> Any:
    """The function of a verb, or of each source below `prepare`, of each part below `bench`."""
    if verb == "prepare":
        from genrec.data.sources import SOURCES

        return {"_help": VERBS[verb], **SOURCES}
    if verb == "bench":
        from genrec.pipeline.bench import BENCHES

        return {"_help": VERBS[verb], **BENCHES}
    from genrec import pipeline

    return getattr(pipeline, verb.replace("-", "_"))


def main(args: Sequence[str] | None = None) -> None:
    """Run a verb.

    Exit codes: 0 done, 2 bad input (the message says what to do), 130 interrupted.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads of PyTorch spin for milliseconds while they wait for one another, on a core that the
    # others may need. A short spin costs nothing on an idle machine, and saves up to nine tenths
    # beside other busy processes. It is read when PyTorch is imported, which the verbs do.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    given = [_spelled_out(arg) for arg in (sys.argv[1:] if args is None else args)]
    console = Console(stderr=True, soft_wrap=True)
    if given and given[0] in SHARED:
        _note_one_process(console)
    elif os.environ.get("RANK", "0") != "0":
        return
    try:
        with _notes(console):
            result = auto_cli(
                _components(given),
                args=given,
                prog="genrec",
                description="Generative recommendation with semantic IDs.",
                version=genrec.__version__,
                parser_class=_Parser,
            )
        if "prepare" in given and hasattr(result, "histories"):
            console.print(Text(_prepared(result)))
    except GenrecError as error:
        console.print(Text.assemble(("error: ", "red"), str(error)))
        sys.exit(2)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        console.print(
            Text.assemble(
                ("error: ", "red"),
                f"{place}{error.strerror or error}; free some space or choose another place",
            )
        )
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("interrupted; run the same command again to go on")
        sys.exit(130)


def _note_one_process(console: Console) -> None:
    """Say that `accelerate launch --cpu --num_processes N` started one process."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and (
        "MASTER_PORT" in os.environ
    )
    if asked and not any(name in os.environ for name in ("WORLD_SIZE", *MPI)):
        console.print(
            Text.assemble(
                ("note: ", "yellow"),
                "accelerate launch --cpu starts further processes through MPI only, so this is one "
                "process; --multi_gpu in place of --cpu starts them, on CPUs too",
            )
        )


def _spelled_out(arg: str) -> str:
    """`--from`, which is no name that Python gives to an argument, as the `--path` it means."""
    return "--path" + arg.removeprefix("--from") if arg.split("=")[0] == "--from" else arg


@contextlib.contextmanager
def _notes(console: Console) -> Iterator[None]:
    """Shows warnings as a line each, without the place in the code they come from."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        console.print(Text.assemble(("note: ", "yellow"), str(message)))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.showwarning = show
        yield


def _prepared(made: Any) -> str:
    """What `prepare` made, on one line."""
    histories = made.histories
    return (
        f"{len(histories):,} users, {len(made.catalog):,} items, {histories.num_events:,} events, "
        f"saved in {made.folder}"
    )


def _components(args: Sequence[str]) -> dict[str, Any]:
    """The verb that is asked for, and of the others only their names and descriptions.

    All verbs are loaded where a file may name any of them (`genrec --config FILE`).
    """
    first = args[0] if args else "--help"
    anything = first.startswith("-") and first not in ("-h", "--help", "--version")
    return {
        verb: load_verb(verb) if anything or verb == first else _named(description)
        for verb, description in VERBS.items()
    }


def _named(description: str) -> Callable[[], None]:
    def verb() -> None:
        pass

    verb.__doc__ = description
    return verb


class _Formatter(DefaultHelpFormatter):
    """Help in the words of a shell; an example stays on the line it is typed on."""

    def _get_help_string(self, action: argparse.Action) -> str:
        """The help and the default where there is one; what Python calls its type says less."""
        text = action.help or ""
        default = action.default
        if not action.option_strings or default is None or default == argparse.SUPPRESS:
            return text
        return f"{text} (default: {_as_yaml(default)})".strip()

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        """The kind of value, where its type tells: a number, or names and values."""
        kind = self._get_type_str(action) or ""
        name = super()._get_default_metavar_for_optional(action)
        return next((shown for word, shown in KINDS if kind.startswith(word)), name)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(EXAMPLE):
            return "\n".join(indent + line for line in text.splitlines())
        return str(super()._fill_text(text, width, indent))


def _as_yaml(value: Any) -> str:
    """A default as it is written on the command line: `true`, `[1, 2]`, `{type: lexical}`."""
    shown = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return str(shown).removesuffix("...\n").strip()


class _Parser(ArgumentParser):
    """Shows a verb's example under its options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Formatter)
        kwargs.setdefault("allow_abbrev", False)  # an option added later must not change a script
        super().__init__(*args, **kwargs)

    def add_function_arguments(
        self, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """As the base class, and below the options the example and the parts with theirs."""
        self.epilog = "\n\n".join(filter(None, (_example(function), _parts(function))))
        return super().add_function_arguments(function, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """One line, with the name that was probably meant, in place of a page of options."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        prog = parser.prog.replace(" [options]", "")
        console = Console(stderr=True, soft_wrap=True)
        text = _in_words(message) + _meant(parser, message)
        console.print(Text.assemble(("error: ", "red"), text))
        console.print(Text(f"see {prog} --help"))
        self.exit(2)


def _in_words(message: str) -> str:
    """What the parser says of a value of another type, in words of the command line."""
    wrong = re.match(
        r"Parser key \"([^\"]+)\":\s*Expected an? <class '(\w+)'>\. Got value: (.*)", message
    )
    return (
        f"--{wrong[1]}: {wrong[3]!r} is not {TYPES.get(wrong[2], wrong[2])}" if wrong else message
    )


def _meant(parser: argparse.ArgumentParser, message: str) -> str:
    """The option or verb nearest to the one in a message that says there is none such."""
    if wrong := re.match(r"unrecognized arguments: (--[^ =]+)", message):
        options = [
            name
            for action in parser._actions
            for name in action.option_strings
            if name.startswith("--")
        ]
        # `--epochs` means `--training.epochs`: the last part of a name counts as a name.
        names = {"--" + name.rpartition(".")[2]: name for name in options}
        names.update(zip(options, options, strict=True))
    elif wrong := re.search(r"invalid choice: '([^']*)'", message):
        names = {name: name for name in re.findall(r"'([^']*)'", message[wrong.end() :])}
    else:
        return ""
    near = difflib.get_close_matches(wrong[1], names, n=1, cutoff=0.7)
    return f"; did you mean {names[near[0]]}?" if near else ""


def _example(function: Callable[..., Any]) -> str:
    """The command under a docstring's `Example:`, on one line."""
    _, _, rest = (inspect.getdoc(function) or "").partition("Example:\n")
    command = " ".join(line.strip() for line in rest.split("\n\n")[0].splitlines())
    return EXAMPLE + command if command else ""


def _parts(function: Callable[..., Any]) -> str:
    """A line for each part that a verb takes by `type`: its name and its options."""
    verb = function.__name__ if function.__module__.startswith("genrec.pipeline") else ""
    if verb == "embed":
        from genrec.embedding import EMBEDDERS

        registries: dict[str, Any] = {"embedder": EMBEDDERS}
    elif verb == "quantize":
        from genrec.quantization import QUANTIZERS

        registries = {"quantizer": QUANTIZERS}
    elif verb == "train":
        from genrec.models import BACKBONES, HEADS, ITEM_ENCODERS

        registries = {"item_encoder": ITEM_ENCODERS, "backbone": BACKBONES, "head": HEADS}
    else:
        return ""
    lines = []
    for option, parts in registries.items():
        lines.append(f"options by --{option}.type:")
        for name, part in parts.items():
            accepted = inspect.signature(part).parameters
            shown = [key for key in accepted if verb != "train" or key not in SUPPLIED]
            lines.append(f"  {name}: {', '.join(shown)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
