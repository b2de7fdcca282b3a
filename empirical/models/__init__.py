"""Architectures, each as a specification and as a stack of cells that train side by side."""

from empirical.models.activations import ACTIVATIONS
from empirical.models.catalogue import ARCHITECTURES
from empirical.models.cnn import CNN
from empirical.models.fused_mlp import FusedMLPStack
from empirical.models.fused_network import FusedNetworkStack
from empirical.models.mlp import MLP, LazyMLPStack, MLPStack
from empirical.models.resnet import ResNet
from empirical.models.stack import Architecture, FusedStack, Lesson, Placement, Stack, StepwiseStack
from empirical.models.vit import ViT

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "CNN",
    "MLP",
    "Architecture",
    "FusedMLPStack",
    "FusedNetworkStack",
    "FusedStack",
    "LazyMLPStack",
    "Lesson",
    "MLPStack",
    "Placement",
    "ResNet",
    "Stack",
    "StepwiseStack",
    "ViT",
]
