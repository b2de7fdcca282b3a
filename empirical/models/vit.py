"""Vision transformers in μP: patches, positions, pre-LayerNorm attention and MLP blocks, mean-pooled tokens, no biases.

    h ← E patch + P,   h ← h + A(norm(h))/√(2B),   h ← h + V_down φ(V_up norm(h))/√(2B),   F = V_out ⟨norm(h)⟩_tokens,
    A(z) = V_o [softmax(q_a·k_aᵀ / d) v_a]_heads,      q, k, v = V_q z, V_k z, V_v z,      d = N / heads,

(Dosovitskiy et al. 2021, arXiv:2010.11929, with a mean over tokens in place of the class token.) Scores are divided by
d, and not by √d, because queries and keys align while features are learned (Yang et al. 2022, arXiv:2203.03466). The
last norm is there only where asked for. The MLP has 4N units.

Scales are those of ``scaled`` with 2B branches. The positions P, one vector of N numbers a token, are weights with one
input of size 1 (which token it is): entries of order one, moved by ηN times their gradient, as the patch embedding is;
what the network sees of a token is thus as much its place as its pixels.

Images whose side is no multiple of the patch are padded with zeros, as evenly as possible. Degree of homogeneity D for
large weights: 3, 1 with a final norm; learnable gains add 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from empirical.models.activations import Activation, activation
from empirical.models.fused_network import Blueprint, FusedNetwork
from empirical.models.resnet import NORMS
from empirical.models.scaled import NORM_EPSILON, LayerNorm, Product, ScaledArchitecture, TensorScale
from theory.errors import InputError, one_of, positive_integer

MLP_RATIO = 4


@dataclass(frozen=True)
class ViT(ScaledArchitecture):
    """Specification of a vision transformer.

    Attributes:
        blocks: pairs of attention and MLP, B.
        width: features N of a token, a multiple of ``heads``.
        input_shape: (channels, side, side) of an image.
        num_classes: outputs.
        heads: of the attention.
        patch: side of a patch in pixels.
        activation: one of ``ACTIVATIONS``, of the MLPs.
        norm: ``layer`` before attention and MLP, or ``none``.
        final_norm: LayerNorm before the tokens are averaged.
        norm_gain: the norms have learnable gains.
        frozen: tensors that are not trained; see ``ScaledArchitecture``.
    """

    blocks: int
    width: int
    input_shape: tuple[int, int, int]
    num_classes: int
    heads: int = 2
    patch: int = 4
    activation: str = "gelu"
    norm: str = "layer"
    final_norm: bool = False
    norm_gain: bool = False
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("blocks", "width", "num_classes", "heads", "patch"):
            positive_integer(name, getattr(self, name))
        for size in self.input_shape:
            positive_integer("input_shape", size)
        activation(self.activation)
        one_of("norm", self.norm, NORMS)
        if self.width % self.heads:
            raise InputError("heads", self.heads, f"a divisor of the width, {self.width}")
        if self.patch > self.input_shape[1]:
            raise InputError("patch", self.patch, f"at most the side of the images, {self.input_shape[1]}")
        if self.norm_gain and self.norm == "none" and not self.final_norm:
            raise InputError("norm_gain", True, "False where there is no norm")
        self.trained()

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one image, channels first."""
        return self.input_shape

    @property
    def patches(self) -> int:
        """Patches along a side."""
        return -(-self.input_shape[1] // self.patch)

    @property
    def scales(self) -> dict[str, TensorScale]:
        """Scales of each tensor by name."""
        n, gain, branches = self.width, activation(self.activation).gain, 2 * self.blocks
        into = self.input_shape[0] * self.patch**2
        out = {
            "position": TensorScale.vector((self.patches**2, n), n, ones=False),
            "embedding.weight": TensorScale.reads_input((n, into), n),
        }

        def norm(name: str) -> dict[str, TensorScale]:
            return {name: TensorScale.vector((n,), n, ones=True)} if self.norm_gain else {}

        for block in range(self.blocks):
            at, inner = f"blocks.{block}", norm if self.norm == "layer" else lambda _: {}
            out |= inner(f"{at}.attention.norm.gain")
            for name in ("query", "key", "value", "project"):
                out[f"{at}.attention.{name}.weight"] = TensorScale.hidden((n, n), n, 1.0, branches)
            out |= inner(f"{at}.mlp.norm.gain")
            out[f"{at}.mlp.up.weight"] = TensorScale.hidden((MLP_RATIO * n, n), n, 1.0, branches)
            out[f"{at}.mlp.down.weight"] = TensorScale.hidden((n, MLP_RATIO * n), n, gain, branches)
        if self.final_norm:
            out |= norm("norm.gain")
        return out | {"readout.weight": TensorScale.readout((self.num_classes, n))}

    def skeleton(self) -> nn.Module:
        """The module, with weights of any value."""
        return ViTModule(self)

    def drawn(self) -> FusedNetwork | None:
        """The layers for the compiled loops: those of ReLU and GELU networks with norms and without learnable gains."""
        if self.activation not in {"relu", "gelu"} or self.norm != "layer" or self.norm_gain:
            return None
        shapes = {name: scale.shape for name, scale in self.scales.items()}
        layers, n, factor = Blueprint(list(shapes), border=0), self.width, (2 * self.blocks) ** -0.5
        h = layers.embed("embedding.weight", n, self.patches, positions="position")
        for block in range(self.blocks):
            at, z = f"blocks.{block}.attention", layers.normalize(h)
            q, k, v = (layers.convolve(f"{at}.{part}.weight", z, n) for part in ("query", "key", "value"))
            seen = layers.attend(q, k, v, self.heads)
            layers.add_convolution(f"{at}.project.weight", seen, h, factor=factor)
            at, z = f"blocks.{block}.mlp", layers.normalize(h)
            rectified = self.activation == "relu"
            units = layers.convolve(f"{at}.up.weight", z, MLP_RATIO * n, rectified=rectified)
            units = units if rectified else layers.gelu(units)
            layers.add_convolution(f"{at}.down.weight", units, h, factor=factor)
        top = layers.normalize(h) if self.final_norm else h
        patches = partial(tokens, patch=self.patch)
        return FusedNetwork(layers, top, patches, self.input_shape, shapes, self.can_die, NORM_EPSILON)


def tokens(images: Tensor, patch: int) -> Tensor:
    """Take images apart, padded with zeros as evenly as possible where the patch does not divide their side.

    Args:
        images: ``(…, channels, side, side)``.
        patch: side of a patch in pixels.

    Returns:
        Shape ``(…, patches, channels · patch²)``.
    """
    missing = -images.shape[-1] % patch
    padded = fn.pad(images, (missing // 2, missing - missing // 2) * 2)
    parts = padded.unfold(-2, patch, patch).unfold(-2, patch, patch)  # (…, channel, row, column, down, right)
    return parts.movedim(-5, -3).flatten(-3).flatten(-3, -2)


class Attention(nn.Module):
    """Attention of tokens to each other, with what its input is normalised by.

    Args:
        width: features N.
        heads: of N / heads features each.
        norm: at the entrance.
    """

    def __init__(self, width: int, heads: int, norm: nn.Module | None) -> None:
        super().__init__()
        self.norm, self.heads = norm, heads
        self.query, self.key = Product(width, width), Product(width, width)
        self.value, self.project = Product(width, width), Product(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Shape ``(batch, tokens, width)``, same out."""
        z = h if self.norm is None else self.norm(h)
        q, k, v = (
            part(z).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        weights = (q @ k.mT / q.shape[-1]).softmax(-1)
        out: Tensor = self.project((weights @ v).transpose(1, 2).flatten(2))
        return out


class TokenMLP(nn.Module):
    """Two products with an activation between them, the same for each token.

    Args:
        width: features N.
        phi: the activation.
        norm: at the entrance.
    """

    def __init__(self, width: int, phi: Activation, norm: nn.Module | None) -> None:
        super().__init__()
        self.norm, self.phi = norm, phi.apply
        self.up, self.down = Product(MLP_RATIO * width, width), Product(width, MLP_RATIO * width)

    def forward(self, h: Tensor) -> Tensor:
        """Shape ``(batch, tokens, width)``, same out."""
        out: Tensor = self.down(self.phi(self.up(h if self.norm is None else self.norm(h))))
        return out


class ViTBlock(nn.Module):
    """Attention and MLP, each added to the residual stream.

    Args:
        spec: sizes.
    """

    def __init__(self, spec: ViT) -> None:
        super().__init__()

        def norm() -> nn.Module | None:
            return LayerNorm(-1, spec.width, spec.norm_gain) if spec.norm == "layer" else None

        self.scale = (2 * spec.blocks) ** -0.5
        self.attention = Attention(spec.width, spec.heads, norm())
        self.mlp = TokenMLP(spec.width, activation(spec.activation), norm())

    def forward(self, h: Tensor) -> Tensor:
        """The residual stream after the block, ``(batch, tokens, width)``."""
        h = h + self.scale * self.attention(h)
        out: Tensor = h + self.scale * self.mlp(h)
        return out


class ViTModule(nn.Module):
    """One vision transformer, for measurements and for plain training loops.

    Args:
        spec: its sizes.
    """

    def __init__(self, spec: ViT) -> None:
        super().__init__()
        self.patch = spec.patch
        self.position = nn.Parameter(torch.empty(spec.patches**2, spec.width, dtype=torch.float64))
        self.embedding = Product(spec.width, spec.input_shape[0] * spec.patch**2)
        self.blocks = nn.ModuleList(ViTBlock(spec) for _ in range(spec.blocks))
        self.norm = LayerNorm(-1, spec.width, spec.norm_gain) if spec.final_norm else None
        self.readout = Product(spec.num_classes, spec.width)

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs F.

        Args:
            x: images ``(batch, channels, side, side)``.

        Returns:
            Shape ``(batch, num_classes)``.
        """
        h = self.embedding(tokens(x, self.patch)) + self.position
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.readout((h if self.norm is None else self.norm(h)).mean(1))
        return out
