"""Write the generated half of the documentation, `docs/reference/`, from the program itself.

python scripts/make_reference.py            write the pages
python scripts/make_reference.py --check    write nothing; exit code 1 when a page is stale
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from sartor import augment, build, cli, durable, formats, workshop
from sartor.adapters import methods, preset_of
from sartor.catalogue import CATALOGUE
from sartor.data import clean
from sartor.names import known, resolve
from sartor.recipe import Named, Recipe, fields
from sartor.schemas import schema_of
from sartor.types import Json

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MARK = "<!-- Written by scripts/make_reference.py from the program itself: change the program, then `make docs`. -->"

#: A bar inside a table's cell.
SPELT_BAR = "\\|"

Row = tuple[str, ...]

#: Schema name -> the files of a run that follow it.
SCHEMAS = {
    "recipe": "`recipe.yaml`",
    "example": "each line of `data/train.jsonl`, `data/dev.jsonl`, `data/test.jsonl`",
    "ledger": "each line of `data/ledger.jsonl`",
    "check": "`check.json`",
    "plan": "`plan.json`",
    "event": "each line of `events.jsonl`",
    "item": "each line of `items.jsonl` and `items.baseline.jsonl`",
    "proof": "`baseline.json` and `proof.json`",
    "lineage": "`sartor.json` in `adapter/` and `artifact/`",
}


def pages() -> dict[str, str]:
    """The text of every generated page, by file name."""
    made = {
        "cli.md": cli_page(),
        "recipe.md": recipe_page(),
        "extensions.md": extensions_page(),
        "models.md": models_page(),
        "schemas.md": schemas_page(),
    }
    return {name: "\n".join([MARK, "", *lines]).rstrip() + "\n" for name, lines in made.items()}


def cli_page() -> Iterator[str]:
    """Every command with its arguments and options, as `--help` has them."""
    yield from ("# Command line", "")
    yield from ("`[RECIPE]` is `sartor.yaml` unless you name another. Data goes to stdout, talk to stderr.", "")
    _, _, codes = " ".join((cli.__doc__ or "").split()).partition("Exit codes: ")
    yield from ("## Exit codes", "", *_table(("code", "meaning"), [_code(item) for item in codes.split(" · ")]))
    for name, command in _commands(typer.main.get_command(cli.app)):
        yield from ("", f"## sartor {name}", "", command.help or "")
        arguments = [item for item in command.params if item.param_type_name == "argument"]
        options = [item for item in command.params if item.param_type_name == "option"]
        usage = " ".join([f"sartor {name}", *(_argument(item) for item in arguments)])
        yield from ("", "```", usage + (" [OPTIONS]" if options else ""), "```")
        if command.params:
            rows = [(_spelling(item), _help(item), _default(item)) for item in (*arguments, *options)]
            yield from ("", *_table(("option", "what it does", "default"), rows))


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its words, those of groups among them."""
    for name, command in group.commands.items():
        if "commands" in vars(command):
            yield from _commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def recipe_page() -> Iterator[str]:
    """Every key of the recipe, section by section."""
    yield from ("# Recipe", "")
    yield "What was asked. A key left out is decided by the plan, which gives its reason. `sartor explain KEY` prints"
    yield "these texts, and what was decided in your run. `--set a.b=value` overrides a key on the command line."
    section = ""
    for path, what, when, default in fields():
        head = path.partition(".")[0]
        if head != section:
            section = head
            yield from ("", f"## {head}", "", Recipe.model_fields[head].description or "")
        yield from ("", f"### `{path}`", "", what, "", f"- **change it:** {when}", f"- **default:** {_value(default)}")


def extensions_page() -> Iterator[str]:
    """What is known by name: formats, cleaners, steps, metrics, arms, objectives, tuning methods."""
    yield from ("# What is known by name", "")
    yield "Each name is a file: `src/sartor/<kind>/<name>.py`; of tuning methods a family is one, with all its own."
    yield "Add a file and it is listed here, accepted in recipes, and put through the contract tests of its kind."
    yield from _section("Formats", "For `data.format`; sniffed when left out.")
    yield from _table(("format", "what it is", "fields", "a row begins"), _formats())
    yield from _section("Steps", "For `data.make`, and each a command of `sartor data`.")
    yield from _table(("step", "what it does", "it takes", "settings"), _steps())
    yield from _section("Cleaners", "For `data.clean` and `sartor data clean`. Those that choose see no test split.")
    yield from _table(("cleaner", "what it finds", "reasons in the ledger", "chooses", "settings"), _cleaners())
    yield from _section("Builders", "For the step `build`.")
    yield from _table(("builder", "what it makes", "it reads", "settings"), _builders())
    yield from _section("Ways to augment", "For the step `augment`.")
    yield from _table(("way", "what it makes", "settings"), _ways())
    yield from _section("Metrics", "For `task.metric`. Your own: `module:function`.")
    yield from _table(("metric", "what it says of an answer", "settings"), _metrics())
    yield from _section("Arms", "For `prove.arms`.")
    yield from _table(("arm", "how the model is asked", "with the adapter"), _arms())
    yield from _section("Objectives", "For `tune.objective`.")
    yield from _table(("objective", "what it learns", "examples", "settings"), _objectives())
    yield from _section("Tuning methods", "For `tune.adapter`: a word, or `{name: lora, r: 16}`.")
    yield from _table(("method", "family", "what it tunes", "source", "served by", "mergeable", "packable"), _methods())
    for family in known("adapters"):
        yield from ("", f"### Settings of the family `{family}`", "")
        config = resolve("adapters", family).Config
        rows = [
            (f"`{name}`", info.description or "", _value(info.default)) for name, info in config.model_fields.items()
        ]
        yield from _table(("setting", "what it is", "default"), rows)


def models_page() -> Iterator[str]:
    """The catalogue."""
    yield from ("# Models", "")
    yield "The models known by name; `sartor models` prints this list. A folder in Hugging Face layout with safetensors"
    yield "weights, a `.gguf` file or a hub id can be named instead. The last column says what such a size needs."
    rows = [
        (
            f"`{card.name}`",
            card.family,
            f"{card.parameters:,} M",
            card.licence,
            f"{card.context:,}",
            card.cutoff,
            card.tunable_on,
        )
        for card in CATALOGUE
    ]
    heads = ("model", "family", "parameters", "licence", "context", "knowledge cut-off", "tunable on")
    yield from ("", *_table(heads, rows))


def schemas_page() -> Iterator[str]:
    """Which file of a run follows which JSON Schema."""
    yield from ("# Schemas", "")
    yield "`sartor schema NAME` prints the JSON Schema of a kind of file: a contract for other programs."
    rows = [(f"`{name}`", files, _summary(schema_of(name))) for name, files in SCHEMAS.items()]
    yield from ("", *_table(("schema", "files of a run", "what it is"), rows))


def _section(title: str, text: str) -> Sequence[str]:
    return ("", f"## {title}", "", text, "")


def _formats() -> Iterator[Row]:
    for name in known("formats"):
        form = formats.named(name)
        yield f"`{name}`", form.SUMMARY, _words(form.FIELDS), f"`{json.dumps(form.SAMPLE)[:60]}`"


def _steps() -> Iterator[Row]:
    for name in known(workshop.KIND):
        step = workshop.step(name)
        yield f"`{name}`", step.SUMMARY, step.TAKES, _settings(step.Config)


def _cleaners() -> Iterator[Row]:
    for name in known(clean.KIND):
        each = clean.cleaner(name)
        yield f"`{name}`", each.SUMMARY, _words(each.REASONS), _yes(each.SELECTS), _settings(each.Config)


def _builders() -> Iterator[Row]:
    for name in known(build.KIND):
        each = build.builder(name)
        yield f"`{name}`", each.SUMMARY, each.READS, _settings(each.Config)


def _ways() -> Iterator[Row]:
    for name in known(augment.KIND):
        each = augment.recipe(name)
        yield f"`{name}`", each.SUMMARY, _settings(each.Config)


def _metrics() -> Iterator[Row]:
    for name in known("metrics"):
        metric = resolve("metrics", name)
        yield f"`{name}`", metric.SUMMARY, _settings(metric.Config)


def _arms() -> Iterator[Row]:
    for name in known("arms"):
        arm = resolve("arms", name)
        yield f"`{name}`", arm.SUMMARY, _yes(arm.TUNED)


def _objectives() -> Iterator[Row]:
    for name in known("objectives"):
        objective = resolve("objectives", name)
        yield f"`{name}`", objective.SUMMARY, _words(sorted(objective.EXAMPLE)), _settings(objective.Config)


def _methods() -> Iterator[Row]:
    for method, name in sorted(methods().items()):
        preset = preset_of(method)
        served, merges, packs = ", ".join(preset.served_by), _yes(preset.mergeable), _yes(preset.packable)
        yield f"`{method}`", f"`{name}`", preset.summary, preset.paper, served, merges, packs


def _code(text: str) -> tuple[str, str]:
    """`0 done` as ("0", "done"); `130 and 143 stopped …` keeps both numbers together."""
    words = text.rstrip(".").split()
    numbers = [word for word in words if word.isdigit()]
    rest = words[words.index(numbers[-1]) + 1 :]
    return " and ".join(numbers), " ".join(rest)


def _argument(item: Any) -> str:
    name = item.metavar or item.name.upper()
    return name if item.required or name.startswith("[") else f"[{name}]"


def _spelling(item: Any) -> str:
    if item.param_type_name == "argument":
        return f"`{_argument(item)}`"
    return ", ".join(f"`{name}`" for name in (*item.opts, *item.secondary_opts))


def _help(item: Any) -> str:
    variable = f" From the environment: `{item.envvar}`." if item.envvar else ""
    return f"{item.help or ''}{variable}"


def _default(item: Any) -> str:
    if item.required:
        return "required"
    return "" if item.default in (None, "", False) else f"`{item.default}`"


def _value(default: Any) -> str:
    """A default as one would write it in a recipe."""
    if default is None:
        return "none: Sartor decides"
    if default == "required":
        return "none: it must be given"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default.name if isinstance(default, Named) else default}`"


def _settings(config: Any) -> str:
    """Settings with their defaults, those that must be given first."""
    described = (f"`{name}` ({_given(info)}): {info.description}" for name, info in config.model_fields.items())
    return "; ".join(text.rstrip(".") for text in described) or "none"


def _given(info: Any) -> str:
    """A setting's default; those of nested settings are their own."""
    if info.is_required():
        return "must be given"
    default = info.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        return "; ".join(f"`{name}: {value}`" for name, value in default.model_dump().items())
    return "none" if default is None else _value(default)


def _summary(schema: Json) -> str:
    """The schema's own words; of a union, what it is a union of."""
    if "discriminator" in schema:
        key = schema["discriminator"]["propertyName"]
        return f"`{key}` is one of {_words(sorted(schema['discriminator']['mapping']))}"
    return str(schema.get("description", "")).partition("\n\n")[0].replace("\n", " ")


def _words(items: Sequence[str]) -> str:
    return ", ".join(f"`{item}`" for item in items)


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _table(heads: Sequence[str], rows: Iterable[Row]) -> Iterator[str]:
    for cells in (heads, ("---",) * len(heads), *rows):
        yield f"| {' | '.join(cell.replace('|', SPELT_BAR) for cell in cells)} |"


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or with `--check` name those that are stale."""
    parser = argparse.ArgumentParser(description="Write docs/reference/ from the program.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a page is stale")
    checking = parser.parse_args(arguments).check
    stale = [name for name, text in pages().items() if not _is(FOLDER / name, text)]
    for name in stale:
        if not checking:
            durable.atomic_write(FOLDER / name, pages()[name])
        print(f"{'stale' if checking else 'wrote'} docs/reference/{name}", file=sys.stderr)
    return 1 if checking and stale else 0


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
