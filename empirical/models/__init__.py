"""Architectures, each as a specification and as a stack of cells that train side by side."""

from empirical.models.activations import ACTIVATIONS
from empirical.models.catalogue import ARCHITECTURES
from empirical.models.cnn import CNN
from empirical.models.mlp import MLP, LazyMLPStack, MLPStack
from empirical.models.resnet import ResNet
from empirical.models.stack import Architecture, Placement, Stack
from empirical.models.vit import ViT

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "CNN",
    "MLP",
    "Architecture",
    "LazyMLPStack",
    "MLPStack",
    "Placement",
    "ResNet",
    "Stack",
    "ViT",
]
