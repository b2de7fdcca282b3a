"""Figures that lay theory over simulation and experiment, and the report that carries them."""
