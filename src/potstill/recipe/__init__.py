"""The one typed configuration of a run."""

from potstill.recipe.model import Recipe
from potstill.recipe.read import make_recipe, merge, parse_settings, read_file, recipe_schema

__all__ = ["Recipe", "make_recipe", "merge", "parse_settings", "read_file", "recipe_schema"]
