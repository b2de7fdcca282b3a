"""Sphinx configuration of the user guide."""

project = "richscape"
author = "The richscape authors"
extensions = ["myst_parser", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "the γ–η plane of feature learning", "fixed_sidebar": True}
