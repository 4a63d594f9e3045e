"""`sartor new`: a recipe for a file, each choice explained in a comment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sartor.catalogue import CATALOGUE, card
from sartor.data.ledger import refuse_if_many
from sartor.data.read import read
from sartor.data.split import labels
from sartor.errors import ModelError, RecipeError
from sartor.hub import kind_of, read_config
from sartor.names import suggest
from sartor.recipe import parse_yaml
from sartor.types import Chat, Example, Kind

DEFAULT_MODEL = "smollm2-135m-instruct"
SHORT_ANSWER = 200  # characters: up to here, one right answer can usually be given word for word

_RECIPE = """\
# Sartor's recipe. What is left out is decided by the plan, and printed with its reason: `sartor plan`.
# `sartor explain KEY` says what a key does and when to change it.

# {about}; `sartor models` lists others.
model: {model}

data:
  # {rows:,} rows, read as the format `{format}`{bad}.
  # A test part and a small dev part are held out before anything looks at the data.
  train: {train}

task:
  # {why}
  metric: {metric}
  # goal: 0.8    # the score worth shipping; without it, beating the best untuned arm decides
"""
_PAIRS = """
tune:
  # An encoder writes nothing, and these answers are no labels: each question learns to be nearest to its own answer.
  objective: contrastive
"""


def propose(file: Path, *, relative_to: Path, model: str = DEFAULT_MODEL) -> str:
    """The text of a recipe for a data file.

    Raises:
        DataError: the file cannot be read, or its format is not known.
        ModelError: there is no such model.
    """
    _refuse_unknown(model)
    found = read(file, format=None, fields={}, label=file.name)
    refuse_if_many(found.ledger)
    metric, why = propose_metric(found.examples)
    pairs = metric != "choice" and _kind(model, relative_to) == "encoder"
    if pairs:
        metric, why = "retrieval", "`retrieval` asks whether an item's own answer is the nearest of all held-out ones."
    bad = len(found.examples) - found.rows
    path = file.resolve()
    train = path.relative_to(relative_to.resolve()) if path.is_relative_to(relative_to.resolve()) else path
    return _RECIPE.format(
        about=_about(model),
        model=_quoted(model),
        rows=found.rows,
        format=found.format,
        bad=f" ({-bad} of them unreadable: `sartor check` names them)" if bad else "",
        train=_quoted(str(train)),
        metric=metric,
        why=why,
    ) + (_PAIRS if pairs else "")


def _refuse_unknown(model: str) -> None:
    """What the check would not find: no name of the catalogue, nothing here, and no hub id, which has a slash.

    Raises:
        ModelError: it is such a name.
    """
    if card(model) is None and "/" not in model and not (model and Path(model).exists()):
        names = tuple(card.name for card in CATALOGUE)
        raise ModelError(f"unknown model {model!r}", hint=suggest(model, names))


def _kind(model: str, root: Path) -> Kind:
    """What a base is, as far as that is known without fetching it."""
    known = card(model)
    if known is not None:
        return known.kind
    folder = root / model
    return kind_of(read_config(folder)) if (folder / "config.json").is_file() else "decoder"


def propose_metric(examples: Sequence[Example]) -> tuple[str, str]:
    """The metric that fits the answers, and why."""
    targets = [example.target for example in examples if isinstance(example, Chat)]
    if not targets:
        return (
            "perplexity",
            "Running text has no question and answer: `perplexity` scores how well the text is foretold.",
        )
    classes = labels(examples)
    if classes:
        shown = ", ".join(map(_one_line, classes[:4])) + (", …" if len(classes) > 4 else "")
        return "choice", f"The answers are one of {len(classes)} labels ({shown}): `choice` scores the label chosen."
    if sorted(map(len, targets))[len(targets) // 2] <= SHORT_ANSWER and len(set(targets)) > len(targets) // 4:
        return "exact", "The answers are short: `exact` asks for the same text. Free wording? Then `f1` is fairer."
    return "f1", "The answers are long: `f1` scores the words shared with the reference. One right text? Then `exact`."


def _about(model: str) -> str:
    """What one wants to know of a base model, in a line."""
    known = card(model)
    if known is None:
        return f"{_one_line(model)} is not in the catalogue"
    origin = " comes with a Python package and" if known.source == "embedded" else f", {known.licence},"
    return f"{known.name}{origin} can be tuned on: {known.tunable_on}"


def _one_line(text: str) -> str:
    """Text that can stand in a comment: a line break in it would end the comment."""
    return text if text.isprintable() else repr(text)


def _quoted(text: str) -> str:
    """A word or a path as YAML: plain where it is read back as it stands, else in quotes."""
    try:
        plain = parse_yaml(f"text: {text}", text)["text"] == text
    except RecipeError:
        plain = False
    return text if plain else json.dumps(text, ensure_ascii=False)
