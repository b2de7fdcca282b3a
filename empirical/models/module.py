"""Many copies of any ``nn.Module``, trained side by side by ``torch.func``.

The module is called with one cell's weights at a time (``functional_call``), ``vmap`` turns that into one program over
stacked weights, and ``vjp`` sends back the derivative by the output that the ensemble hands in, so that every cell may
have its own γ, η and seed. What it cannot do is share state between examples or draw random numbers: such modules are
refused. For MLPs and CNNs the stacks written by hand are several times faster.

Weights are θ = θ₀ + Δ, and Δ is what moves. Lazy cells are computed in double precision, since F(θ) − F(θ₀) cancels
and nothing is known here about what lies between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from empirical.memory import saved_bytes
from empirical.models.stack import Placement
from theory.errors import InputError, positive_integer, positive_number

CHUNK_CELLS = 8
"""Cells that pass at once on a CPU: enough to share the cost of the calls, few enough for the cache. Of 1, 2, 4, 8 and
16 it was the fastest for ResNets and ViTs of 1 to 9 MB of activations a cell."""

KEPT_BYTES = 256e6
"""Activations of the cells whose graphs are kept between the two passes; further cells pass forward twice."""


def stateless(module: nn.Module) -> nn.Module:
    """Check that what a module gives for one example depends on nothing but its weights and that example.

    Args:
        module: the module, in training mode, as it would be trained.

    Returns:
        The module.

    Raises:
        InputError: it normalises over the batch, keeps running statistics, or drops units at random.
    """
    for name, layer in module.named_modules():
        shown = f"{name or 'itself'} ({type(layer).__name__})"
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise InputError("module", shown, "without batch normalisation, which couples the examples of a batch")
        if getattr(layer, "track_running_stats", False):
            raise InputError("module", shown, "without running statistics, which couple one batch to the next")
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise InputError("module", shown, "without dropout: a cell would depend on the draws of its companions")
        if isinstance(layer, nn.MultiheadAttention | nn.RNNBase) and layer.dropout > 0:
            raise InputError("module", shown, "without dropout: a cell would depend on the draws of its companions")
    return module


@dataclass(frozen=True)
class ModuleArchitecture:
    """Specification of any network that a function builds.

    Attributes:
        build: makes the module with its initial weights, from PyTorch's random numbers; it maps inputs ``(batch, *)``
            to outputs ``(batch, num_classes)``.
        input_dim: numbers in one example.
        num_classes: outputs.
        input_shape: shape in which the module takes one example; ``None`` for ``(input_dim,)``.
        learning_rates: multiplier of η for a parameter, by its name as in ``named_parameters``; 1 where there is none.
    """

    build: Callable[[], nn.Module]
    input_dim: int
    num_classes: int
    input_shape: tuple[int, ...] | None = None
    learning_rates: Mapping[str, float] = field(default_factory=dict, hash=False)

    can_die = False

    def __post_init__(self) -> None:
        positive_integer("input_dim", self.input_dim)
        positive_integer("num_classes", self.num_classes)
        module = self.module(0)
        names = {name for name, _ in module.named_parameters()}
        for name, rate in self.learning_rates.items():
            if name not in names:
                raise InputError("learning_rates", name, "names of parameters: " + ", ".join(sorted(names)))
            positive_number(f"learning_rates[{name}]", rate)
        self._check_output(module)

    def module(self, seed: int) -> nn.Module:
        """Build the module at θ₀, a pure function of the seed; PyTorch's own random numbers are left as they were.

        Args:
            seed: non-negative integer.

        Returns:
            The module, in training mode.

        Raises:
            InputError: ``build`` gives no module, or one with state between examples.
        """
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            module = self.build()
        if not isinstance(module, nn.Module):
            raise InputError("build", module, "a function that returns a torch.nn.Module")
        return stateless(module.train())

    def _check_output(self, module: nn.Module) -> None:
        """Run two examples together and one alone: rows must not depend on each other, on chance or on the past."""
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        reference = next(module.parameters(), torch.zeros(()))
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(2, *self.example_shape, generator=draw).to(reference)
        with torch.no_grad(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            both, alone = module(x), module(x[:1])
        if not isinstance(both, Tensor) or both.shape != (2, self.num_classes):
            shown = tuple(both.shape) if isinstance(both, Tensor) else type(both).__name__
            raise InputError("module's output for 2 examples", shown, f"a tensor of shape (2, {self.num_classes})")
        for name, buffer in module.named_buffers():
            if not torch.equal(before[name], buffer):
                raise InputError("module", f"buffer {name} changed", "without buffers that change")
        if not torch.allclose(both[:1], alone, rtol=1e-3, atol=1e-5):
            shown = "an output that changes with the batch around it or from call to call"
            raise InputError("module", shown, "without state between examples and without random numbers")

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return (self.input_dim,) if self.input_shape is None else self.input_shape

    def parameter_count(self) -> int:
        """Number of weights of one network.

        Returns:
            The number.
        """
        return sum(p.numel() for p in self.module(0).parameters() if p.requires_grad)

    def rates(self, normalized: bool = False) -> dict[str, float]:
        """Multiplier of η for each trainable parameter, by name: the same for every optimizer.

        Args:
            normalized: makes no difference: what a user gives is meant for the optimizer at hand.

        Returns:
            One entry a parameter, in the order of ``named_parameters``.
        """
        trainable = (name for name, p in self.module(0).named_parameters() if p.requires_grad)
        return {name: self.learning_rates.get(name, 1.0) for name in trainable}

    def stack(self, placement: Placement) -> ModuleStack:
        """Networks at their θ₀."""
        return ModuleStack(self, placement)


class ModuleSpecification(Protocol):
    """What a stack of modules asks of an architecture."""

    @property
    def can_die(self) -> bool:
        """Whether F = 0 on a whole batch says that no gradient is left, as where a ReLU is right below the readout."""

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape in which the module takes one example."""

    def module(self, seed: int) -> nn.Module:
        """One network at its θ₀."""

    def rates(self, normalized: bool = False) -> Mapping[str, float]:
        """Multiplier of η for each trainable parameter."""


class ModuleStack:
    """C copies of a module, and the two passes over them; see ``empirical.models.stack.StepwiseStack``.

    Args:
        spec: the architecture.
        placement: cells, optimizer and device; the optimizer's slots are the trainable parameters in the order of
            ``named_parameters``.
        chunk: cells that pass at once; ``None`` is ``CHUNK_CELLS`` on a CPU, elsewhere what ``KEPT_BYTES`` holds.
    """

    def __init__(
        self,
        spec: ModuleSpecification,
        placement: Placement,
        *,
        chunk: int | None = None,
    ) -> None:
        self.spec, self.optimizer, self.dtype = spec, placement.optimizer, placement.dtype
        self.sections, self.inner = list(placement.sections), placement.inner_dtype
        modules = [spec.module(seed).to(device=placement.device, dtype=self.inner) for seed in placement.seeds]
        self.module = modules[0]
        self.names = [name for name, p in self.module.named_parameters() if p.requires_grad]
        # what is not trained may still differ from seed to seed: frozen parameters and random buffers
        trained, fixed = [], []
        for module in modules:
            state = dict(module.named_parameters()) | dict(module.named_buffers())
            trained.append({name: state[name].detach() for name in self.names})
            fixed.append({name: value.detach() for name, value in state.items() if name not in trained[-1]})
        self.start = {name: torch.stack([t[name] for t in trained]) for name in self.names}
        self.fixed = fixed
        index = torch.repeat_interleave(torch.arange(len(modules)), torch.tensor(self.sections))
        self.seed_index = index.to(placement.device)
        self.rates = spec.rates(placement.optimizer.normalized)
        self.displacement = {n: start.new_zeros(len(index), *start.shape[1:]) for n, start in self.start.items()}
        self.chunk = chunk
        self._silent = torch.zeros(len(index), dtype=torch.bool, device=placement.device)
        self._inputs: Sequence[Tensor] = ()
        self._backward: list[Callable[[Tensor], dict[str, Tensor]]] = []

    def displacements(self) -> dict[str, Tensor]:
        """How far every cell is from its start.

        Returns:
            Δ = θ − θ₀ by name, float64, each ``(cells, *shape)``.
        """
        return {name: moved.to(torch.float64, copy=True) for name, moved in self.displacement.items()}

    def _weights(self) -> dict[str, Tensor]:
        """Trainable parameters of every cell by name, each ``(cells, *shape)``."""
        return {name: self.start[name][self.seed_index] + moved for name, moved in self.displacement.items()}

    def _call(self, weights: dict[str, Tensor], seed: int, x: Tensor) -> Tensor:
        """Raw outputs of cells of one seed, shape (cells, batch, classes)."""
        fixed, module = self.fixed[seed], self.module

        def one(cell: dict[str, Tensor]) -> Tensor:
            return cast(Tensor, functional_call(module, cell | fixed, (x,)))

        return vmap(one)(weights)

    def _chunks(self, batch: int) -> list[tuple[int, slice]]:
        """Seed and cells of each chunk; a chunk has one seed, so that its cells share their inputs."""
        most = self.chunk or max(1, int(KEPT_BYTES / self._bytes_of_a_cell(batch)))
        if self.chunk is None and self.seed_index.device.type == "cpu":
            most = min(most, CHUNK_CELLS)
        out, start = [], 0
        for seed, count in enumerate(self.sections):
            out += [(seed, slice(i, min(i + most, start + count))) for i in range(start, start + count, most)]
            start += count
        return out

    def _bytes_of_a_cell(self, batch: int) -> float:
        """What autograd keeps of one cell: measured on two examples, once."""
        if not hasattr(self, "_bytes_per_example"):
            x = torch.zeros(2, *self.spec.example_shape, dtype=self.inner, device=self.seed_index.device)
            self._bytes_per_example = max(1.0, saved_bytes(lambda: self.module(x)) / 2)
        return self._bytes_per_example * batch

    def _example_shape(self, x: Tensor) -> Tensor:
        return x.to(self.inner).reshape(len(x), *self.spec.example_shape)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Centred raw outputs F(θ; x) − F(θ₀; x); keeps what ``update`` needs.

        Args:
            inputs: one batch a seed, each ``(batch, input_dim)``.

        Returns:
            Shape ``(cells, num_classes, batch)``.
        """
        self._inputs = [self._example_shape(x) for x in inputs]
        weights = self._weights()
        initial = [
            self._call({name: start[seed : seed + 1] for name, start in self.start.items()}, seed, x)
            for seed, x in enumerate(self._inputs)
        ]
        self._backward, outputs, silent, kept = [], [], list[Tensor](), 0.0
        for seed, part in self._chunks(len(inputs[0])):
            cells = {name: weight[part] for name, weight in weights.items()}
            kept += (part.stop - part.start) * self._bytes_of_a_cell(len(inputs[0]))
            if kept <= KEPT_BYTES:
                output, backward = self._with_backward(cells, seed)
                self._backward.append(backward)
            else:
                output = self._call(cells, seed, self._inputs[seed])
            outputs.append(output.detach() - initial[seed])
            silent.append((output.detach() == 0).flatten(1).all(1))
        self._silent = torch.cat(silent) & self.spec.can_die
        return torch.cat(outputs).mT.to(self.dtype, memory_format=torch.contiguous_format)

    def _with_backward(
        self, cells: dict[str, Tensor], seed: int
    ) -> tuple[Tensor, Callable[[Tensor], dict[str, Tensor]]]:
        with torch.enable_grad():
            result = vjp(lambda w: self._call(w, seed, self._inputs[seed]), cells)
        output, pull = cast(tuple[Tensor, Callable[[Tensor], tuple[dict[str, Tensor]]]], result)
        return output, lambda gradient: pull(gradient)[0]

    def inactive(self) -> Tensor:
        """Cells whose output and gradients are exactly zero on the last batch, where the architecture can say so.

        Returns:
            Booleans, shape ``(cells,)``; all false for modules of which nothing is known (``can_die``).
        """
        return self._silent

    def update(self, gradient: Tensor) -> None:
        """One optimizer step from the last ``forward``.

        Args:
            gradient: ∂ℓ/∂F times ``optimizer.output_scale``, shape ``(cells, num_classes, batch)``.
        """
        gradient = gradient.mT.to(self.inner)
        found = {name: torch.empty_like(moved) for name, moved in self.displacement.items()}
        weights = self._weights()
        for i, (seed, part) in enumerate(self._chunks(gradient.shape[1])):
            if i < len(self._backward):
                backward = self._backward[i]
            else:
                backward = self._with_backward({name: weight[part] for name, weight in weights.items()}, seed)[1]
            for name, g in backward(gradient[part]).items():
                found[name][part] = g
        self._backward = []
        decaying = self._weights() if self.optimizer.weight_decay else {}
        for slot, (name, moved) in enumerate(self.displacement.items()):
            self.optimizer.step(slot, moved, found[name].detach(), self.rates[name], decaying.get(name))

    def keep(self, index: Tensor, sections: Sequence[int]) -> None:
        """Drop cells, here and in the optimizer.

        Args:
            index: positions of the cells to keep, ascending.
            sections: how many of each seed they are.
        """
        self.displacement = {name: moved.index_select(0, index) for name, moved in self.displacement.items()}
        self.seed_index = self.seed_index.index_select(0, index)
        self.sections, self._backward = list(sections), []
        self.optimizer.keep(index)
