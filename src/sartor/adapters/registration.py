"""Methods of ours in PEFT's own registry, so that `PeftModel.from_pretrained` loads what they save.

PEFT's registry refuses names that its enumeration of types does not have, so the enumeration is extended: the one
exception to "no patches" (docs/why/layout.md), with peft pinned and a canary test. Types of ours begin with `SARTOR_`,
so that a later one of PEFT's cannot have the same name.
"""

from __future__ import annotations

from typing import Any

from peft import PeftType
from peft.utils import register_peft_method

PREFIX = "SARTOR_"


def register(name: str, config: type[Any], model: type[Any]) -> None:
    """Make a method known to PEFT, once.

    Args:
        name: `sartor_` and the family's name, in lower case: the value of `peft_type` in `adapter_config.json`, which
            is in upper case there.
        config: a `PeftConfig` dataclass, whose `peft_type` is `type_named(name)`.
        model: its `BaseTuner`, whose `prefix` begins the names of its parameters.
    """
    found = type_named(name)
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if found not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=name, config_cls=config, model_cls=model)


def type_named(name: str) -> PeftType:
    """The member of PEFT's enumeration for a type of ours, added to it if it is not there."""
    value = name.upper()
    if value in PeftType._value2member_map_:
        return PeftType(value)
    member = str.__new__(PeftType, value)
    member._name_ = member._value_ = value
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType._member_names_)
    type.__setattr__(PeftType, value, member)
    PeftType._member_names_.append(value)
    PeftType._member_map_[value] = member
    PeftType._value2member_map_[value] = member
    return member
