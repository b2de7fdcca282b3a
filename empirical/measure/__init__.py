"""Measurements of many networks at once, each a function of ``empirical.networks.Networks``."""
