"""Decide how a base's weights are held: what the recipe says, what the method wants, or as the checkpoint has them.

It is decided from recipe and checkpoint alone, so that every stage and every machine decides the same.
"""

from __future__ import annotations

from pathlib import Path

from sartor.adapters import family_of, preset_of
from sartor.asked import ASKED
from sartor.backends import estimate
from sartor.errors import RecipeError
from sartor.hub import Shape, stored_quantisation
from sartor.plan import Quantized
from sartor.recipe import Recipe
from sartor.types import Kind

FOUR_BITS = ("nf4", "fp4")
LEFT_OUT = "leave `model.quantize` out"


def quantize_of(recipe: Recipe, folder: Path, kind: Kind) -> tuple[Quantized, str]:
    """How the base in a folder is held, with the reason.

    Raises:
        RecipeError: recipe, method and checkpoint do not agree, or the method cannot be trained on such a base.
        ModelError: the checkpoint's weights are of a kind that we do not read.
    """
    stored = stored_quantisation(folder)
    asked, method = recipe.model.quantize, recipe.tune.adapter.name
    if stored and asked is not None:
        raise RecipeError(
            f"`model.quantize` is {asked}, and {recipe.model.name} holds {stored} weights",
            hint=f"{LEFT_OUT}, or name the model that they were made from",
        )
    if not stored:
        return by_recipe(recipe, kind)
    held: Quantized = "gptq" if stored == "gptq" else "awq"
    _require_method(method, held)
    return held, "as the checkpoint is"


def by_recipe(recipe: Recipe, kind: Kind) -> tuple[Quantized, str]:
    """The same for a base that is not here, from the recipe alone.

    Raises:
        RecipeError: recipe and method do not agree, or the method cannot be trained on such a base.
    """
    asked, method = recipe.model.quantize, recipe.tune.adapter.name
    wanted = preset_of(method).quantize
    if asked is None and not wanted:
        return "none", "in the type of the products: neither the recipe nor the method asks for less"
    if asked is not None and wanted in FOUR_BITS and asked not in FOUR_BITS:
        raise RecipeError(
            f"`model.quantize` is {asked}, and {method} is a method for a base in four bits",
            hint=f"{LEFT_OUT}, or set `tune.adapter` to lora",
        )
    if asked == "none":
        return "none", ASKED
    if kind != "decoder":
        raise RecipeError(
            f"`model.quantize`: {recipe.model.name} is no decoder, and only those are quantised",
            hint="leave it out, and choose another method than qlora: such bases are small",
        )
    held: Quantized = asked or ("fp4" if wanted == "fp4" else "nf4")
    _require_method(method, held)
    return held, ASKED if asked else f"{method} trains on a base in four bits"


def words(quantize: Quantized, reason: str, shape: Shape, item_bytes: int) -> str:
    """The reason, with the memory that it saves."""
    if quantize == "none":
        return reason
    held = estimate.base_bytes(shape, quantize, item_bytes) / 2**20
    plain = estimate.base_bytes(shape, "none", item_bytes) / 2**20
    return f"{reason}: {held:,.0f} MiB of weights instead of {plain:,.0f}; made into numbers a layer at a time"


def optimizer_words(optimizer: str, reason: str, device: str) -> str:
    """The reason, with what a CPU makes of the optimizers that were written for GPUs."""
    if device != "cpu" or optimizer not in estimate.EIGHT_BIT:
        return reason
    if optimizer.startswith("paged_"):
        return f"{reason}; paging is between a GPU and its host: on a CPU the moments just stay in memory, in 8 bits"
    return f"{reason}; made for GPUs: on a CPU it saves memory, not time"


def _require_method(method: str, quantize: Quantized) -> None:
    """Refuse methods that change weights of the base.

    Raises:
        RecipeError: this one does.
    """
    preset = preset_of(method)
    if family_of(method).TRAINS == "model":
        why, instead = f"{method} trains the weights themselves, which are then too coarse to move", "lora"
    elif preset.moves_base:
        why, instead = f"{method} cannot be trained on such a base: {preset.moves_base}", "lora"
    else:
        return
    raise RecipeError(
        f"`model.quantize` is {quantize}, and {why}", hint=f"set it to none, or `tune.adapter` to {instead}"
    )
