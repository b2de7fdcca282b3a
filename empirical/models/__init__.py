"""Architectures, each as a specification and as a stack of cells that train side by side."""

from empirical.models.mlp import MLP, MLPStack

__all__ = ["MLP", "MLPStack"]
