"""Architectures, each as a specification and as a stack of cells that train side by side."""

from empirical.models.mlp import MLP, LazyMLPStack, MLPStack
from empirical.models.stack import Architecture, Placement, Stack

__all__ = ["MLP", "Architecture", "LazyMLPStack", "MLPStack", "Placement", "Stack"]
