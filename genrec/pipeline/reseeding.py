"""Vocabularies fitted again with the seeds of the runs that read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genrec.errors import ConfigError
from genrec.pipeline.vocabulary import QUANTIZER_DEFAULT, build_quantizer

OPTION = "reseed_vocabulary"


def check_reseeding(run: str, options: Mapping[str, Any]) -> bool:
    """Whether the seeds of a run fit its vocabulary again.

    Args:
        run: its name.
        options: as in the recipe. `seeds: []` is how a run that inherits another's options turns
            the seeds off, and reseeding with them.

    Raises:
        ConfigError: if the option is not true or false, or there are no seeds, or no vocabulary.
    """
    asked = options.get(OPTION, False)
    if not isinstance(asked, bool):
        raise ConfigError(f"{run}: {OPTION}={asked!r}; expected true or false")
    if not asked:
        return False
    if "seeds" not in options:
        raise ConfigError(f"{run}: {OPTION} needs `seeds`, a list; with which is it to be fitted?")
    if options["seeds"] and not options.get("vocabulary"):
        raise ConfigError(f"{run}: {OPTION}: the run reads no vocabulary; leave the option out")
    return bool(options["seeds"])


def reseeded(
    run: str, vocabularies: Mapping[str, Mapping[str, Any]], name: str, seed: int
) -> tuple[str, dict[str, dict[str, Any]]]:
    """The vocabulary whose quantizer is fitted with a seed; its vectors and tie order are the same.

    Args:
        run: that reads it, for messages.
        vocabularies: of the recipe.
        name: one of them.
        seed: of the quantizer.

    Returns:
        Its name, and its options by that name; nothing for the quantizer's own seed, with which
        the vocabulary is in the recipe.

    Raises:
        ConfigError: if the quantizer draws nothing, does not take the seed, or another vocabulary
            has the name.
    """
    plain = dict(vocabularies[name])
    quantizer = plain.get("quantizer", QUANTIZER_DEFAULT)
    config = build_quantizer(quantizer).config
    if "seed" not in config:
        raise ConfigError(
            f"{run}: {OPTION}: quantizer {config['type']!r} of vocabulary {name!r} has no option "
            "`seed`: every seed would give the same codes; leave the option out"
        )
    if config["seed"] == seed:
        return name, {}
    other = f"{name}-seed{seed}"
    if other in vocabularies:
        raise ConfigError(
            f"{run}: {OPTION}: would call {name!r}, fitted with seed {seed}, {other!r}, which is "
            "another vocabulary of the recipe; rename that one"
        )
    plain["quantizer"] = {**quantizer, "seed": seed}
    build_quantizer(plain["quantizer"])
    return other, {other: plain}
