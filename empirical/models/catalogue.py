"""Architectures by name: which options each has, their defaults, and what a row of a table says about it.

An option that an architecture does not have is refused, so that no two configurations mean the same network.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from empirical.models.cnn import CNN
from empirical.models.mlp import MLP
from empirical.models.resnet import ResNet
from empirical.models.stack import Architecture
from empirical.models.user import UserArchitecture
from empirical.models.vit import ViT
from theory.errors import InputError, one_of, positive_integer


@dataclass(frozen=True)
class Shape:
    """Sizes and options of an architecture; ``None`` where it does not have one, or has not been told.

    Attributes:
        depth: weight layers on the longest way through the network, L.
        width: hidden width N; channels of a convolution.
        activation: one of ``ACTIVATIONS``.
        strides: of the 3×3 convolutions of a CNN.
        blocks: of a ResNet or a ViT.
        norm: ``none`` or ``layer``, in each block.
        final_norm: LayerNorm before the readout.
        norm_gain: whether norms have learnable gains.
        heads: of the attention.
        patch: side of a patch in pixels.
        frozen: tensors that are not trained, by name or a part of it.
    """

    depth: int | None = None
    width: int | None = None
    activation: str | None = None
    strides: tuple[int, ...] | None = None
    blocks: int | None = None
    norm: str | None = None
    final_norm: bool | None = None
    norm_gain: bool | None = None
    heads: int | None = None
    patch: int | None = None
    frozen: tuple[str, ...] | None = None


OPTIONS = tuple(field.name for field in fields(Shape))

_STREAM = {"depth": None, "final_norm": False, "norm_gain": False, "frozen": ()}

DEFAULTS: dict[str, dict[str, Any]] = {
    "mlp": {"depth": 3, "width": 64, "activation": "relu"},
    "cnn": {"depth": 3, "width": 16, "strides": None, "activation": "relu"},
    "resnet": {**_STREAM, "width": 8, "blocks": 2, "activation": "relu", "norm": "none"},
    "vit": {**_STREAM, "width": 32, "blocks": 2, "activation": "gelu", "norm": "layer", "heads": 2, "patch": None},
}
"""Options that each architecture has. ``None`` follows from the others: a CNN's strides are 2 until the image is at
most 4 pixels wide, then 1; a patch is a quarter of the image's side, rounded up; a ResNet or ViT of B blocks has depth
2 + 2B or 2 + 4B."""

ARCHITECTURES = tuple(DEFAULTS)


def default_strides(convolutions: int, side: int) -> tuple[int, ...]:
    """Strides of a CNN: 2 until the image is at most 4 pixels wide, then 1.

    Args:
        convolutions: how many.
        side: of the image in pixels.

    Returns:
        One entry a convolution.
    """
    out = []
    for _ in range(convolutions):
        out.append(2 if side > 4 else 1)
        side = (side - 1) // out[-1] + 1
    return tuple(out)


def is_users(arch: str) -> bool:
    """Whether an architecture is a user's class.

    Args:
        arch: any name.

    Returns:
        Whether it has the form ``module:Class``.
    """
    return isinstance(arch, str) and ":" in arch


def complete(arch: str, given: Shape, example_shape: tuple[int, ...]) -> Shape:
    """Fill in what was not given.

    Args:
        arch: one of ``ARCHITECTURES``, or ``module:Class``.
        given: options; ``None`` where not given.
        example_shape: of the data: ``(channels, side, side)``, or ``(d,)``.

    Returns:
        All options that the architecture has; ``None`` for the others.

    Raises:
        InputError: an unknown architecture, an option that it does not have, images asked of data that are none, or
            depths that contradict the other options.
    """
    known: dict[str, Any] = (
        {"depth": None, "width": None} if is_users(arch) else DEFAULTS[one_of("arch", arch, ARCHITECTURES)]
    )
    for name in OPTIONS:
        if getattr(given, name) is not None and name not in known:
            raise InputError(name, getattr(given, name), f"not given: an architecture {arch} has no such option")
    out: dict[str, Any] = {
        name: default if getattr(given, name) is None else getattr(given, name) for name, default in known.items()
    }
    for name in ("width", "blocks", "heads", "patch"):
        if out.get(name) is not None:
            positive_integer(name, out[name])
    if arch == "mlp" or is_users(arch):
        return Shape(**out)
    if len(example_shape) != 3:
        raise InputError("arch", arch, f"mlp on data of shape {example_shape}, which are no images")
    if arch == "cnn":
        if given.strides is not None:
            out["strides"] = tuple(given.strides)
            derived: int = len(given.strides) + 1
        else:
            layers = positive_integer("depth", out["depth"])
            if not 3 <= layers <= 7:
                raise InputError("depth", layers, "3 to 7: 2 to 6 convolutions and the readout")
            out["strides"], derived = default_strides(layers - 1, example_shape[-1]), layers
    else:
        derived = 2 + (2 if arch == "resnet" else 4) * out["blocks"]
    if given.depth not in {None, derived}:
        raise InputError("depth", given.depth, f"not given, or {derived}, which follows from the other options")
    if "frozen" in out:
        out["frozen"] = tuple(out["frozen"])
    if arch == "vit" and out["patch"] is None:
        out["patch"] = -(-example_shape[-1] // 4)
    return Shape(**out | {"depth": derived})


def build(arch: str, shape: Shape, example_shape: tuple[int, ...], num_classes: int) -> Architecture:
    """Specification of an architecture.

    Args:
        arch: one of ``ARCHITECTURES``, or ``module:Class``.
        shape: as ``complete`` gives it.
        example_shape: of the data.
        num_classes: outputs.

    Returns:
        The specification, checked.
    """
    if is_users(arch):
        return UserArchitecture(arch, tuple(example_shape), num_classes, shape.width, shape.depth)
    has = {name: getattr(shape, name) for name in DEFAULTS[arch]}
    if arch == "mlp":
        dim = 1
        for size in example_shape:
            dim *= size
        return MLP(has["depth"], has["width"], dim, num_classes, has["activation"])
    channels, side, _ = example_shape
    if arch == "cnn":
        return CNN(has["strides"], has["width"], side, num_classes, channels, has["activation"])
    del has["depth"]
    kind: type[ResNet | ViT] = ResNet if arch == "resnet" else ViT
    return kind(input_shape=(channels, side, side), num_classes=num_classes, **has)


def describe(arch: str, shape: Shape) -> str:
    """What the ``variant`` column of a table says: every option that the depth does not tell.

    Args:
        arch: one of ``ARCHITECTURES``, or ``module:Class``.
        shape: as ``complete`` gives it.

    Returns:
        One line, such as ``relu, width 64`` or ``relu, layer norm, final norm, 2 blocks, width 8``.
    """
    if is_users(arch):
        given = {"depth": shape.depth, "width": shape.width}
        return ", ".join(f"{name} {size}" for name, size in given.items() if size is not None) or "as it is"
    words = [str(shape.activation)]
    if arch == "cnn":
        words.append("strides " + "-".join(map(str, shape.strides or ())))
    if arch in {"resnet", "vit"}:
        words.append("no norm" if shape.norm == "none" else "layer norm")
        words += ["final norm"] * bool(shape.final_norm) + ["norm gains"] * bool(shape.norm_gain)
        words.append(f"{shape.blocks} block" + "s" * (shape.blocks != 1))
    if arch == "vit":
        words += [f"{shape.heads} head" + "s" * (shape.heads != 1), f"patch {shape.patch}"]
    if shape.frozen:
        words.append("frozen " + " ".join(shape.frozen))
    return ", ".join([*words, f"width {shape.width}"])
