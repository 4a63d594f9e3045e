"""The recipes that people copy: each loads, and names only what is known, with settings that are accepted."""

from __future__ import annotations

from pathlib import Path

import pytest

from sartor import workshop
from sartor.adapters import family_of
from sartor.catalogue import card
from sartor.data.cleaning import chosen
from sartor.errors import RecipeError
from sartor.metrics.load import load as load_metric
from sartor.names import known, resolve
from sartor.recipe import Recipe, load, validated

ROOT = Path(__file__).parents[1]
RECIPES = [*sorted((ROOT / "recipes").glob("*.yaml")), ROOT / "demo" / "sartor.yaml"]

each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")


def demand_known_names(recipe: Recipe) -> None:
    """Raises where the plan would: at a name, or at a setting of it."""
    metric, adapter, objective = recipe.task.metric, recipe.tune.adapter, recipe.tune.objective
    load_metric(metric.name).config_type(**metric.settings)
    family = family_of(adapter.name)
    family.Config(**{**family.PRESETS[adapter.name].settings, **adapter.settings})
    resolve("objectives", objective.name).Config(**objective.settings)
    chosen(recipe.data.clean)
    for step in recipe.data.make:
        validated(workshop.step(step.name).Config, step.settings, "data.make")
    for arm in recipe.prove.arms or ():
        resolve("arms", arm)
    if recipe.data.format is not None:
        resolve("formats", recipe.data.format)


def test_there_is_a_recipe_for_each_usual_kind_of_answer() -> None:
    assert {"exact", "choice", "f1"} <= {load(path).task.metric.name for path in RECIPES}


@each_recipe
def test_it_names_only_what_is_known(path: Path) -> None:
    recipe = load(path)
    demand_known_names(recipe)
    known = card(recipe.model.name) is not None or "/" in recipe.model.name
    assert known, "a recipe to copy starts from a model that everybody can get by name"


@each_recipe
def test_its_fields_are_those_of_a_format(path: Path) -> None:
    ours = set(load(path).data.fields)
    assert any(ours <= set(resolve("formats", name).FIELDS) for name in known("formats"))


@each_recipe
def test_every_choice_is_explained(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# "), "the first line says what the recipe is for"
    assert sum(line.lstrip().startswith("#") for line in lines) >= 5


@pytest.mark.parametrize(
    "override", ["task.metric=exakt", "tune.adapter=lorra", "tune.objective=stf", "data.clean=[pie]"]
)
def test_the_check_of_names_trips(override: str) -> None:
    with pytest.raises(RecipeError, match="unknown"):
        demand_known_names(load(RECIPES[0], [override]))
