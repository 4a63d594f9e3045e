"""Recipe: what was asked. One YAML file, frozen once read; every field is declared here and nowhere else.

A field left out means "decide for me": the plan decides, and gives its reason. Unknown keys are errors with line,
column and the nearest known key. `sartor explain KEY` prints the texts that stand beside the fields.
"""

from __future__ import annotations

import datetime
import io
import math
import types as python_types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.tokens import AliasToken, AnchorToken, DirectiveToken, ScalarToken, TagToken

from sartor.errors import RecipeError, Where
from sartor.names import suggest
from sartor.types import Frozen, Json, digest_of

DEFAULT_FILE = "sartor.yaml"
Optimizer = Literal["adamw", "sgd", "adamw_8bit", "paged_adamw_8bit"]
#: Kinds of numbers in which a base's frozen weights can be held; "none" is the type of the products.
Quantize = Literal["none", "nf4", "fp4", "int8"]


def _field(default: Any, what: str, *, when: str, **limits: Any) -> Any:
    """One knob: its default, what it does and when to change it, both in plain words."""
    return Field(default, description=what, json_schema_extra={"when": when}, **limits)


class Named(Frozen):
    """A word, or a word with settings: `lora`, or `{name: lora, r: 16}`."""

    name: str
    settings: Json = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_word_or_mapping(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "settings" not in value and "name" in value:
            return {"name": value["name"], "settings": {key: item for key, item in value.items() if key != "name"}}
        return value


class ModelSpec(Frozen):
    """The base model."""

    name: str = _field(
        ...,
        "The base model: a name from `sartor models`, a folder in Hugging Face layout, a .gguf file, or a hub id.",
        when="Start small: a model that answers some items right untuned learns faster than one that answers none.",
    )
    revision: str = _field(
        "main",
        "Revision of a hub model; the plan pins it to the commit it found.",
        when="Name a commit when others must get exactly your base.",
    )
    quantize: Quantize | None = _field(
        None,
        "How the frozen weights are held: nf4 or fp4 (4 bits), int8, or none. Any adapter can be trained on each.",
        when="nf4 when the base does not fit otherwise; it costs a little of the answers, which the proof measures.",
    )
    template: Json = _field(
        {},
        "Extra variables for the chat template, for example {enable_thinking: false}. They travel with the adapter.",
        when="Only for models whose template has switches.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class DataSpec(Frozen):
    """Where the examples come from. Paths are relative to the recipe's folder."""

    train: str | None = _field(
        None,
        "Your examples: a file (JSONL, JSON, CSV, TSV, Parquet, text) or a folder that `sartor data` made.",
        when="This is the one thing only you can give; it may be left out where `data.make` collects it.",
    )
    test: str | None = _field(
        None,
        "A test file of your own. Without it a part of the training file is held out before anything looks at it.",
        when="You already have a trusted test set. It is checked for leaks against the training file.",
    )
    dev: str | None = _field(
        None,
        "A development file of your own: used to choose shots and to follow training, never for the verdict.",
        when="You have one; otherwise a small part of the training file is held out.",
    )
    format: str | None = _field(
        None, "The format of the rows, instead of sniffing it.", when="The sniffed format is not the one you mean."
    )
    fields: dict[str, str] = _field(
        {}, "Our field name -> your column, for example {prompt: question}.", when="Your columns have other names."
    )
    make: tuple[Named, ...] = _field(
        (),
        "Steps that make the training examples, in order: collect, build, clean, augment. Each is made once.",
        when="Your examples have to be made of documents, or be more than you have.",
    )
    clean: tuple[Named, ...] = _field(
        (),
        "Cleaners in order, each a word or a mapping with settings: [near_duplicates, {name: pii, action: mask}].",
        when="`sartor check` or `sartor data inspect` showed rows that should not be learned; nothing goes silently.",
    )
    max_bad_rows: float = _field(
        0.01,
        "The share of unreadable rows that is tolerated; each one is in the ledger either way.",
        when="You know that part of the file is broken and want to go on without it.",
        ge=0,
        le=1,
    )
    max_length: int | None = _field(
        None,
        "The longest example, in tokens. Longer ones are an error, or are dropped with `too_long: drop`.",
        when="A few giant rows decide the memory. Nothing is ever cut silently.",
        ge=8,
    )
    too_long: Literal["error", "drop"] = _field(
        "error",
        "What to do with examples longer than `max_length`: refuse to go on, or drop them into the ledger.",
        when="You have seen which rows they are and can do without them.",
    )

    @model_validator(mode="after")
    def _has_examples(self) -> DataSpec:
        if self.train is None and not self.make:
            raise ValueError("there are no examples: name a file in `data.train`, or steps in `data.make`")
        return self


class TaskSpec(Frozen):
    """What a good answer is."""

    metric: Named = _field(
        ...,
        "How an answer is scored: exact, choice, contains, f1, perplexity, retrieval, or module:function for your own.",
        when="Exact for structured output, choice for labels, f1 for free text, retrieval for embeddings.",
    )
    goal: float | None = _field(
        None,
        "The score that the tuned model must reach on held-out items to be worth shipping.",
        when="You know what is good enough for your product. Without it, beating the best untuned arm decides.",
        ge=0,
        le=1,
    )


class TuneSpec(Frozen):
    """How the weights are changed."""

    objective: Named = _field(
        Named(name="sft"),
        "What is learned: sft, to give the answers shown; contrastive, to embed a question nearest to its own answer.",
        when="contrastive for an encoder whose questions and answers belong together in pairs; sft for all else.",
    )
    adapter: Named = _field(
        Named(name="lora"),
        "The tuning method, a word or a mapping with settings: {name: lora, r: 16}.",
        when="LoRA is right for most tasks; raise r when the training loss stays high.",
    )
    epochs: float | None = _field(
        None,
        "How many times each example is seen.",
        when="More when the dev loss still falls at the end, fewer when it rises.",
        gt=0,
        le=1000,
    )
    steps: int | None = _field(
        None, "The number of optimizer steps, instead of epochs.", when="For trials and tests.", ge=1, le=10_000_000
    )
    batch_size: int | None = _field(
        None,
        "Examples per optimizer step. How they are packed never changes the mathematics.",
        when="Larger is steadier, smaller gives more steps to small data.",
        ge=1,
        le=4096,
    )
    learning_rate: float | None = _field(
        None,
        "The peak learning rate.",
        when="Lower it when the loss jumps; raise it when it hardly moves.",
        gt=0,
        le=1,
    )
    optimizer: Optimizer | None = _field(
        None,
        "What turns gradients into steps: adamw, adamw_8bit, paged_adamw_8bit or sgd.",
        when="adamw_8bit when its moments do not fit a GPU; sgd has none, and wants a learning rate of its own.",
    )
    save_every: int | None = _field(
        None, "Steps between checkpoints.", when="Smaller when the machine may be taken away.", ge=1
    )
    seed: int = _field(
        17, "Seed of the split, the order of examples and the initial adapter.", when="Repeat with another.", ge=0
    )


class ProveSpec(Frozen):
    """How the proof is made."""

    arms: tuple[str, ...] | None = _field(
        None,
        "The strategies compared on the same held-out items.",
        when="Leave one out to save time; the verdict is always against the best untuned arm that was run.",
    )
    items: int | None = _field(
        None,
        "How many held-out items are answered by each arm.",
        when="More items detect smaller gains and take longer; the plan says both.",
        ge=10,
    )
    max_new_tokens: int | None = _field(
        None,
        "The longest answer in tokens, at evaluation.",
        when="Answers may be longer than those in your training file.",
        ge=1,
        le=32_768,
    )
    max_forgetting: float = _field(
        0.15,
        "How much the perplexity on general text may rise, as a share: 0.15 allows 15 %.",
        when="Lower it when the model must stay good at everything else; raise it for a single-purpose model.",
        ge=0,
    )


class ServeSpec(Frozen):
    """How the result will be served."""

    engine: Literal["sartor", "vllm", "llamacpp"] | None = _field(
        None,
        "What will answer: sartor, vllm or llamacpp. A method that it cannot serve is refused before training.",
        when="It must run on a server that is there already; left out, Sartor's own engine serves every method.",
    )


class Recipe(Frozen):
    """The whole of what was asked."""

    model: ModelSpec = Field(description="The base model.")
    data: DataSpec = Field(description="Where the examples come from.")
    task: TaskSpec = Field(description="What a good answer is.")
    tune: TuneSpec = Field(default_factory=TuneSpec, description="How the weights are changed.")
    prove: ProveSpec = Field(default_factory=ProveSpec, description="How the proof is made.")
    serve: ServeSpec = Field(default_factory=ServeSpec, description="How the result will be served.")

    @field_validator("data", mode="before")
    @classmethod
    def _data_from_word(cls, value: Any) -> Any:
        return {"train": value} if isinstance(value, str) else value

    @field_validator("task", mode="before")
    @classmethod
    def _task_from_word(cls, value: Any) -> Any:
        return {"metric": value} if isinstance(value, str) else value

    @property
    def digest(self) -> str:
        return digest_of(self.model_dump(mode="json"))


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `--set a.b=value` overrides.

    Raises:
        RecipeError: with file, line and column of what is wrong.
    """
    tree = _read_yaml(path)
    for override in overrides:
        _apply(tree, override)
    try:
        return Recipe.model_validate(_plain(tree, Where(str(path))))
    except ValidationError as error:
        raise _located(error, tree, path) from error


def settings_of(overrides: Sequence[str]) -> Json:
    """`a.b=value` overrides alone, as a mapping.

    Raises:
        RecipeError: one is not of that form, or its value is no YAML.
    """
    tree = CommentedMap()
    for override in overrides:
        _apply(tree, override)
    plain: Json = _plain(tree, Where("--set"))
    return plain


def validated(config_type: Any, settings: Mapping[str, Any], path: str) -> Any:
    """The settings of a member as its config. `path` is where they stand in the recipe.

    What stands under an unknown key is not shown, nor what a validator refuses in words of its own: a secret may be.

    Raises:
        RecipeError: one is not known, or not of its type.
    """
    try:
        return config_type(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            hint = suggest(key, tuple(config_type.model_fields))
            raise RecipeError(f"unknown key `{path}.{key}`", hint=hint) from None
        said = f" is {first['input']!r}: {first['msg'].lower()}"
        if first["type"] == "missing":
            said = f" is missing: {first['msg'].lower()}"
        elif first["type"] == "value_error":
            said = f": {first['ctx']['error']}"
        raise RecipeError(f"`{path}.{key}`{said}", hint=f"correct `{key}`, or leave it out") from None


def parse_yaml(text: str, file: str) -> CommentedMap:
    """YAML 1.2 to a mapping that knows its lines. Duplicate keys, anchors, aliases, tags and directives are refused."""
    yaml = YAML(typ="rt", pure=True)
    try:
        for token in yaml.scan(io.StringIO(text)):
            merges = isinstance(token, ScalarToken) and token.plain and token.value == "<<"
            if merges or isinstance(token, AliasToken | AnchorToken | DirectiveToken | TagToken):
                mark = token.start_mark
                raise RecipeError(
                    "anchors, aliases, merge keys, tags and directives are not allowed",
                    hint="write the value out; text with a &, * or ! in front needs quotes",
                    where=Where(file, line=mark.line + 1, column=mark.column + 1),
                )
        tree = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = Where(file, line=mark.line + 1, column=mark.column + 1) if mark else Where(file)
        problem = (error.problem or str(error)).strip()
        raise RecipeError(
            f"not valid YAML: {problem}", hint="correct the line; strings with a colon need quotes", where=where
        ) from error
    except (YAMLError, ValueError, IndexError, OverflowError, RecursionError) as error:
        # Control characters, numbers that the library cannot build (0x_, 5,000 digits, the 99th month), deep nesting.
        problem = str(error).partition("\n")[0]
        raise RecipeError(
            f"not valid YAML: {problem}", hint="correct it, or put it into quotes", where=Where(file)
        ) from error
    if not isinstance(tree, CommentedMap):
        raise RecipeError(
            f"a recipe is a mapping, this is {_kind(tree)}", hint="`sartor new DATA` writes one", where=Where(file)
        )
    return tree


def fields() -> Iterator[tuple[str, str, str, Any]]:
    """Every knob as (path, what it does, when to change it, default), in reading order."""
    yield from _fields_of(Recipe, "")


def _fields_of(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, Any]]:
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation is not Named:
            yield from _fields_of(annotation, f"{prefix}{name}.")
        else:
            extra = info.json_schema_extra
            when = str(extra["when"]) if isinstance(extra, dict) else ""
            yield f"{prefix}{name}", info.description or "", when, "required" if info.is_required() else info.default


def _read_yaml(path: Path) -> CommentedMap:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError(f"no recipe at {path}", hint="`sartor new DATA.jsonl` writes one") from error
    except IsADirectoryError as error:
        raise RecipeError(f"{path} is a folder", hint=f"name the file, for example {path / DEFAULT_FILE}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 (byte {error.start})", hint="save it as UTF-8") from error
    return parse_yaml(text, str(path))


def _apply(tree: CommentedMap, override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"--set {override!r} is not of the form a.b=value", hint="for example --set tune.epochs=2")
    parsed = parse_yaml(f"value: {text}", f"--set {path}")
    if len(parsed) != 1:
        raise RecipeError(f"--set {override!r} holds more than one value", hint="give one --set for each key")
    value = parsed["value"]
    node: Any = tree
    *parents, last = path.split(".")
    for key in parents:
        child = node.get(key)
        if not isinstance(child, CommentedMap):
            child = CommentedMap() if child is None else CommentedMap({_word_key(key): child})
            node[key] = child
        node = child
    node[last] = value


def _word_key(key: str) -> str:
    """The field that a bare word stands for: `model: x` is `model: {name: x}`."""
    return {"data": "train", "task": "metric"}.get(key, "name")


def _plain(node: Any, where: Where) -> Any:
    """YAML nodes to plain Python. Refused is what has no one meaning: dates, infinities, keys that are no words."""
    if isinstance(node, CommentedMap):
        return {
            _word(key, _place(node, key, where)): _plain(item, _place(node, key, where)) for key, item in node.items()
        }
    if isinstance(node, CommentedSeq):
        return [_plain(item, _place(node, index, where)) for index, item in enumerate(node)]
    if isinstance(node, datetime.date | datetime.datetime):
        raise RecipeError(f"{node} is read as a date", hint="put it into quotes", where=where)
    if isinstance(node, bool) or node is None:
        return node
    if isinstance(node, float) and not math.isfinite(node):
        raise RecipeError(f"{float(node)} is not a finite number", hint="write the number that you mean", where=where)
    for plain in (int, float, str):
        if isinstance(node, plain):
            return _unicode(plain(node), where)
    raise RecipeError(f"{node} has a special meaning in YAML", hint="put it into quotes", where=where)


def _word(key: Any, where: Where) -> str:
    if not isinstance(key, str):
        raise RecipeError(f"the key {key} is not a word", hint="put it into quotes", where=where)
    return str(_unicode(key, where))


def _unicode(value: Any, where: Where) -> Any:
    """No half surrogate pair, which YAML can spell but no file can hold; no U+0085, which YAML writes as a line end."""
    if isinstance(value, str) and any(char == "\x85" or "\ud800" <= char <= "\udfff" for char in value):
        raise RecipeError(f"{value!a} holds what is no text", hint="leave that character out", where=where)
    return value


def _place(node: CommentedMap | CommentedSeq, part: Any, where: Where) -> Where:
    """Where a key or an element stands; what `--set` brought in stands where its parent does."""
    marks = node.lc.data or {}
    return Where(where.file, line=marks[part][0] + 1, column=marks[part][1] + 1) if part in marks else where


def _located(error: ValidationError, tree: CommentedMap, path: Path) -> RecipeError:
    """The first complaint of pydantic as an error with line, column and the nearest known key."""
    first = error.errors()[0]
    location = [part for part in first["loc"] if isinstance(part, str | int)]
    keys = [str(part) for part in location]
    where = _position(tree, location, str(path))
    dotted = ".".join(keys)
    if first["type"] == "extra_forbidden":
        return RecipeError(f"unknown key `{dotted}`", hint=suggest(keys[-1], _siblings(keys[:-1])), where=where)
    if first["type"] == "missing":
        return RecipeError(
            f"`{dotted}` is missing", hint=f"add it; `sartor explain {dotted}` says what it is", where=where
        )
    expected = first["msg"].lower().replace("valid tuple", "list")
    expected = "input should be a word or a mapping" if first["type"].startswith("model_") else expected
    named = ".".join(part for part in location if isinstance(part, str))
    message = f"`{dotted}` is {first['input']!r}: {expected}"
    return RecipeError(message, hint=f"`sartor explain {named}` says what it takes", where=where)


def _position(tree: CommentedMap, location: Sequence[str | int], file: str) -> Where:
    node: Any = tree
    where = Where(file)
    for part in location:
        known = isinstance(part, int) and part < len(node) if isinstance(node, CommentedSeq) else part in node
        if not known:
            break
        where, node = _place(node, part, where), node[part]
        if not isinstance(node, CommentedMap | CommentedSeq):
            break
    return where


def _siblings(parents: Sequence[str]) -> tuple[str, ...]:
    model: type[BaseModel] = Recipe
    for parent in parents:
        annotation = model.model_fields[parent].annotation if parent in model.model_fields else None
        for candidate in (annotation, *get_args(annotation)) if _is_union(annotation) else (annotation,):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return tuple(model.model_fields)


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, python_types.UnionType)


def _kind(value: Any) -> str:
    return "empty" if value is None else "a list" if isinstance(value, CommentedSeq) else f"the one value {value}"
