"""Residual convolutional networks in μP: the shape of ResNet-18 in width and blocks, bias-free, pre-activation.

    h ← V_stem ∗ x,    h ← S h + V₂ ∗ φ(V₁ ∗ φ(norm(h))) / √B  for each of B blocks,    F = V_out ⟨φ(norm(h))⟩_pixels,

with 3×3 kernels, S the identity, or a 1×1 convolution of stride 2 at the first block of a new stage, which halves the
image and doubles the channels (He et al. 2016, arXiv:1512.03385; the order of activations: arXiv:1603.05027).
Stages hold two blocks each, as in ResNet-18; from the ninth block on, the last stage holds the rest. The stem has
stride 2 for images of more than 8 pixels a side and 1 for smaller ones. ``norm`` is LayerNorm over the channels of each
pixel, once a block and, where asked for, before the readout: never over the batch, which would couple examples.

Scales are those of ``scaled``, with N the channels of the last stage; a shortcut counts as a hidden layer of gain 1.

Degree of homogeneity D (``theory.euler_degree``) for large weights and ReLU: 2 + 2B without norms, and with a norm in
every block 3 and 1 for each shortcut that is a weight, 1 with a final norm; learnable gains add 1 to each of these two.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from empirical.models.activations import Activation, activation
from empirical.models.fused_network import Blueprint, FusedNetwork, kernel_patches
from empirical.models.scaled import NORM_EPSILON, Convolution, LayerNorm, Product, ScaledArchitecture, TensorScale
from theory.errors import InputError, one_of, positive_integer

NORMS = ("none", "layer")
STAGES, BLOCKS_PER_STAGE = 4, 2


@dataclass(frozen=True)
class ResNet(ScaledArchitecture):
    """Specification of a residual convolutional network.

    Attributes:
        blocks: residual blocks B of two 3×3 convolutions.
        width: channels of the first stage.
        input_shape: (channels, side, side) of an image.
        num_classes: outputs.
        activation: one of ``ACTIVATIONS``.
        norm: ``none``, or ``layer`` at the entrance of every block.
        final_norm: LayerNorm before the readout.
        norm_gain: the norms have learnable gains.
        frozen: tensors that are not trained; see ``ScaledArchitecture``.
    """

    blocks: int
    width: int
    input_shape: tuple[int, int, int]
    num_classes: int
    activation: str = "relu"
    norm: str = "none"
    final_norm: bool = False
    norm_gain: bool = False
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("blocks", "width", "num_classes"):
            positive_integer(name, getattr(self, name))
        for size in self.input_shape:
            positive_integer("input_shape", size)
        activation(self.activation)
        one_of("norm", self.norm, NORMS)
        if self.norm_gain and self.norm == "none" and not self.final_norm:
            raise InputError("norm_gain", True, "False where there is no norm")
        self.trained()

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one image, channels first."""
        return self.input_shape

    @property
    def can_die(self) -> bool:
        """Whether F = 0 on a whole batch says that no gradient is left: with ReLU below the readout, it does."""
        return self.activation == "relu"

    @property
    def stem_stride(self) -> int:
        """Stride of the first convolution."""
        return 2 if self.input_shape[1] > 8 else 1

    @property
    def stages(self) -> tuple[int, ...]:
        """Stage of each block, from 0."""
        return tuple(min(block // BLOCKS_PER_STAGE, STAGES - 1) for block in range(self.blocks))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels that each block gives."""
        return tuple(self.width << stage for stage in self.stages)

    @property
    def scales(self) -> dict[str, TensorScale]:
        """Scales of each tensor by name."""
        gain, last, into = activation(self.activation).gain, self.channels[-1], self.width
        out = {"stem.weight": TensorScale.reads_input((self.width, self.input_shape[0], 3, 3), last, gain)}
        for block, n in enumerate(self.channels):
            at = f"blocks.{block}"
            if self.norm == "layer" and self.norm_gain:
                out[f"{at}.norm.gain"] = TensorScale.vector((into,), last, ones=True)
            for name, shape in (("first", (n, into, 3, 3)), ("second", (n, n, 3, 3))):
                out[f"{at}.{name}.weight"] = TensorScale.hidden(shape, last, gain, self.blocks)
            if n != into:
                out[f"{at}.shortcut.weight"] = TensorScale.hidden((n, into, 1, 1), last)
            into = n
        if self.final_norm and self.norm_gain:
            out["norm.gain"] = TensorScale.vector((last,), last, ones=True)
        return out | {"readout.weight": TensorScale.readout((self.num_classes, last))}

    def skeleton(self) -> nn.Module:
        """The module, with weights of any value."""
        return ResNetModule(self)

    def drawn(self) -> FusedNetwork | None:
        """The layers for the compiled loops: those of ReLU networks without learnable gains."""
        if self.activation != "relu" or self.norm_gain:
            return None
        shapes = {name: scale.shape for name, scale in self.scales.items()}
        layers = Blueprint(list(shapes), border=1)
        h = layers.embed("stem.weight", self.width, (self.input_shape[1] - 1) // self.stem_stride + 1)
        into = self.width
        for block, n in enumerate(self.channels):
            at, stride = f"blocks.{block}", 1 if n == into else 2
            z = layers.rectify(layers.normalize(h) if self.norm == "layer" else h)
            a = layers.convolve(f"{at}.first.weight", z, n, kernel=3, stride=stride, rectified=True)
            if n != into:
                h = layers.convolve(f"{at}.shortcut.weight", h, n, stride=stride)
            layers.add_convolution(f"{at}.second.weight", a, h, kernel=3, factor=self.blocks**-0.5)
            into = n
        top = layers.rectify(layers.normalize(h) if self.final_norm else h)
        return FusedNetwork(
            layers, top, kernel_patches(self.stem_stride), self.input_shape, shapes, self.can_die, NORM_EPSILON
        )


class BasicBlock(nn.Module):
    """One residual block.

    Args:
        into: channels in.
        out: channels out; where they differ the block halves the image.
        scale: what the branch is multiplied with, B^{−1/2}.
        phi: the activation.
        norm: at the entrance.
    """

    def __init__(self, into: int, out: int, scale: float, phi: Activation, norm: nn.Module | None) -> None:
        super().__init__()
        stride = 1 if into == out else 2
        self.norm, self.scale, self.phi = norm, scale, phi.apply
        self.first, self.second = Convolution(out, into, 3, stride), Convolution(out, out, 3, 1)
        self.shortcut = Convolution(out, into, 1, stride) if into != out else None

    def forward(self, h: Tensor) -> Tensor:
        """The residual stream after the block."""
        branch = self.first(self.phi(h if self.norm is None else self.norm(h)))
        branch = self.second(self.phi(branch))
        return (h if self.shortcut is None else self.shortcut(h)) + self.scale * branch


class ResNetModule(nn.Module):
    """One residual network, for measurements and for plain training loops.

    Args:
        spec: its sizes.
    """

    def __init__(self, spec: ResNet) -> None:
        super().__init__()
        phi, into, blocks = activation(spec.activation), spec.width, []
        self.phi = phi.apply
        self.stem = Convolution(spec.width, spec.input_shape[0], 3, spec.stem_stride)
        for n in spec.channels:
            norm = LayerNorm(1, into, spec.norm_gain) if spec.norm == "layer" else None
            blocks.append(BasicBlock(into, n, spec.blocks**-0.5, phi, norm))
            into = n
        self.blocks = nn.ModuleList(blocks)
        self.norm = LayerNorm(1, into, spec.norm_gain) if spec.final_norm else None
        self.readout = Product(spec.num_classes, into)

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs F.

        Args:
            x: images ``(batch, channels, side, side)``.

        Returns:
            Shape ``(batch, num_classes)``.
        """
        h = self.stem(x)
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.readout(self.phi(h if self.norm is None else self.norm(h)).mean((2, 3)))
        return out
