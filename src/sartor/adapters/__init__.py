"""Tuning methods: one family per file, its members as PRESETS, every one but full tuning a PEFT method.

A file `adapters/x.py` holds

- `TRAINS`: what comes out, and the name of the run's folder for it: an "adapter" on the base, or a "model";
- `PRESETS`: method name -> `method.Preset`; the family's own name is among them;
- `PEFT_TYPES`: the values of `peft_type` in `adapter_config.json` that it reads back; () for "model";
- `Config`: its settings, a frozen value;
- `attach(model, config)`: the model with just the method's weights trainable, adapters in fp32;
- `export(model, folder)`: the files that PEFT (or transformers) loads;
- `count(shape, config)`: trainable parameters, from sizes alone;
- `changes(base, folder)`: `changes.Changes`: what the adapter in a folder makes of the loaded base, for the engine;
- `HOOKS`: a `hooks.Hooks`, what it does in training beside its forward;
- `register()`: makes a method of ours known to PEFT (`registration.py`); does nothing for PEFT's own.

Members never import each other; what several share
stands in a file of its own, named in `NOT_MEMBERS`.
"""

from __future__ import annotations

from typing import Any

from sartor.adapters.method import BY_NAME, Preset
from sartor.errors import RecipeError
from sartor.names import known, resolve, suggest
from sartor.types import Json

NOT_MEMBERS: frozenset[str] = frozenset(
    {
        "layers",
        "method",
        "hooks",
        "registration",
        "changes",
        "saving",
        "merging",
        "low_rank",
        "starts",
        "beside",
        "wrapping",
        "targets",
        "guards",
        "virtual",
    }
)


def methods() -> dict[str, str]:
    """Every method name and its family."""
    return {preset: family for family in known("adapters") for preset in resolve("adapters", family).PRESETS}


def family_of(method: str) -> Any:
    """The module of the family that a method belongs to.

    Raises:
        RecipeError: no family has it.
    """
    families = methods()
    if method not in families:
        raise RecipeError(f"unknown tuning method {method!r}", hint=suggest(method, tuple(sorted(families))))
    return resolve("adapters", families[method])


def preset_of(method: str) -> Preset:
    """What a method says of itself.

    Raises:
        RecipeError: there is no such method.
    """
    preset: Preset = family_of(method).PRESETS[method]
    return preset


def refuse_disguise(method: str, settings: Json) -> None:
    """Settings that would make another method of it, which is served otherwise, are asked for by that one's name.

    Raises:
        RecipeError: there is such a setting.
    """
    family = family_of(method)
    for key, value in settings.items():
        field = family.Config.model_fields.get(key)
        if field is None or not (field.json_schema_extra or {}).get(BY_NAME):
            continue
        if value != preset_of(method).settings.get(key, field.default):
            others = [name for name, preset in family.PRESETS.items() if preset.settings.get(key) == value]
            raise RecipeError(
                f"`tune.adapter.{key}` is {value!r}, which is another method than {method}",
                hint=f"choose {' or '.join(others)} as `tune.adapter.name`" if others else f"leave `{key}` out",
            )


def family_of_type(peft_type: str) -> Any:
    """The module of the family that reads a `peft_type`; None where no family does."""
    families = (resolve("adapters", name) for name in known("adapters"))
    return next((family for family in families if peft_type in family.PEFT_TYPES), None)
