"""One block of cells: a pure function of (configuration, cells) that knows nothing of who calls it.

A loop, a pool of processes or a cluster run the same function and get the same numbers: each block trains on one
thread, so that no sum depends on how many cores there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from empirical.data import DataStream, NoisyLabels, data_set, data_stream
from empirical.ensemble import DTYPES, Ensemble, EnsembleResult, log_spaced_steps, torch_device
from empirical.losses import LOSSES
from empirical.models import Architecture
from empirical.models.catalogue import OPTIONS, Shape, build, complete, describe
from empirical.models.user import UserArchitecture
from empirical.networks import Networks
from empirical.optimizers import DEFAULT_BETA, OPTIMIZERS
from empirical.schedules import DEFAULT_WARMUP, Schedule
from simulate import CellResults, Thresholds
from theory.errors import InputError, one_of, positive_integer

NETWORK_LOSSES = tuple(LOSSES)


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that the result of a cell depends on, besides its γ, η and seed.

    Attributes:
        depth: weight layers L, on the longest way through the network. Like every option of an architecture it has a
            default, which takes the place of ``None``; ``None`` stays where the architecture has no such option, and
            anything else is refused there (``empirical.models.catalogue``).
        arch: ``mlp``, ``cnn``, ``resnet`` or ``vit``, or a user's ``module:Class`` (``empirical.models.user``).
        width: hidden width N: channels of a convolution, features of a token.
        data: name of the data stream.
        image_size: side of the images in pixels; of a teacher, the input dimension.
        data_root: folder of all data sets; see ``data_stream``.
        batch_size: examples in a batch.
        loss: ``mse`` or ``cross-entropy``, on one-hot targets.
        optimizer: ``gd`` (plain stochastic gradient descent), ``momentum`` (heavy ball), ``adam`` or ``sign``.
        beta: memory of heavy ball, β₁ of Adam; at least 0 and below 1.
        schedule: multiplier of η from step to step: ``constant``, ``warmup``, ``cosine`` or ``warmup-cosine``.
        warmup: share of T that a warm-up takes; at least 0 and at most 1.
        weight_decay: λ, coupled for ``gd`` and ``momentum``, decoupled for the others; at least 0.
        label_noise: probability that the label of a training example is drawn anew; at least 0 and below 1.
        steps: budget T.
        dtype: ``float32`` or ``float64``; lazy cells hold what float32 would lose by themselves.
        device: where to train.
        thresholds: the numbers in the definitions of the outcomes.
        activation: ``relu``, ``linear``, ``tanh`` or ``gelu``.
        strides: of the 3×3 convolutions of a CNN, 1 or 2 each.
        blocks: of a ResNet or a ViT.
        norm: LayerNorm in each of their blocks (``layer``) or ``none``.
        final_norm: LayerNorm before their readout.
        norm_gain: whether these norms have learnable gains.
        heads: attention heads of a ViT.
        patch: side of its patches in pixels.
        frozen: tensors of a ResNet or a ViT that stay at θ₀, by their names or parts of them.
        source: fingerprint of the file of a user's class; found, never given.
    """

    depth: int = None  # type: ignore[assignment]  # an integer once made
    arch: str = "mlp"
    width: int = None  # type: ignore[assignment]  # likewise
    data: str = "fashion-mnist-deformed"
    image_size: int = 14
    data_root: str | None = None
    batch_size: int = 64
    loss: str = "mse"
    optimizer: str = "gd"
    beta: float = DEFAULT_BETA
    schedule: str = "constant"
    warmup: float = DEFAULT_WARMUP
    weight_decay: float = 0.0
    label_noise: float = 0.0
    steps: int = 1000
    dtype: str = "float32"
    device: str = "cpu"
    thresholds: Thresholds = field(default_factory=Thresholds)
    activation: str | None = None
    strides: tuple[int, ...] | None = None
    blocks: int | None = None
    norm: str | None = None
    final_norm: bool | None = None
    norm_gain: bool | None = None
    heads: int | None = None
    patch: int | None = None
    frozen: tuple[str, ...] | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps"):
            positive_integer(name, getattr(self, name))
        data_set(self.data, "data")
        one_of("loss", self.loss, NETWORK_LOSSES)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        if not 0 <= self.beta < 1:
            raise InputError("beta", self.beta, "at least 0 and below 1")
        Schedule(self.schedule, self.warmup)  # raises on a bad one
        if not 0 <= self.weight_decay < np.inf:
            raise InputError("weight_decay", self.weight_decay, "a finite number, at least 0")
        one_of("dtype", self.dtype, tuple(DTYPES))
        torch_device(self.device)
        stream = self.stream(0)  # raises on a bad image size, file or label noise
        if stream.num_classes == 1 and self.loss != "mse":
            raise InputError("loss", self.loss, f"mse: the targets of {self.data} are real numbers, not classes")
        shape = complete(self.arch, self.shape, stream.example_shape)
        for name in OPTIONS:
            object.__setattr__(self, name, getattr(shape, name))
        spec = self.spec()  # raises on bad sizes
        if isinstance(spec, UserArchitecture):
            object.__setattr__(self, "source", spec.source())

    def stream(self, seed: int) -> DataStream | NoisyLabels:
        """Data stream of a seed.

        Args:
            seed: non-negative integer.

        Returns:
            The stream.
        """
        clean = data_stream(self.data, self.batch_size, seed, size=self.image_size, root=self.data_root)
        return clean if self.label_noise == 0 else NoisyLabels(clean, self.label_noise)

    def options(self) -> str:
        """What is unusual about the training, for the ``variant`` of a table.

        Returns:
            Schedule, weight decay and label noise where they are not the usual ones, each after a comma; else nothing.
        """
        share = f" {self.warmup:g}" if "warmup" in self.schedule else ""
        unusual = {
            f"{self.schedule}{share}": self.schedule != "constant",
            f"weight decay {self.weight_decay:g}": self.weight_decay > 0,
            f"label noise {self.label_noise:g}": self.label_noise > 0,
        }
        return "".join(f", {what}" for what, told in unusual.items() if told)

    @property
    def shape(self) -> Shape:
        """Sizes and options of the architecture."""
        return Shape(**{name: getattr(self, name) for name in OPTIONS})

    def spec(self) -> Architecture:
        """The architecture.

        Returns:
            Its specification, sized for the data.
        """
        stream = self.stream(0)
        return build(self.arch, self.shape, stream.example_shape, stream.num_classes)

    def weight_layers(self) -> int:
        """Weight layers on the longest way through the network; of a user's, the number of its matrices and kernels.

        Returns:
            What tables have as ``depth``.
        """
        spec = self.spec()
        return spec.matrices() if isinstance(spec, UserArchitecture) else self.depth

    def variant(self) -> str:
        """What tables say of the network and its training besides name, depth, loss and optimizer.

        Returns:
            One line, such as ``relu, width 64``; schedule, weight decay and label noise where they are not the usual.
        """
        return describe(self.arch, self.shape) + self.options()

    def identity(self) -> dict[str, Any]:
        """What was run, in the columns of every table.

        Returns:
            ``arch, variant, depth, loss, optimizer``.
        """
        what = {"arch": self.arch, "variant": self.variant(), "depth": self.weight_layers()}
        return what | {"loss": self.loss, "optimizer": self.optimizer}


class _RememberedStream:
    """A stream that keeps the batches it has made: every block of a run asks for the same ones again."""

    def __init__(self, stream: DataStream | NoisyLabels) -> None:
        self.stream = stream
        self._batches: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        if step not in self._batches:
            self._batches[step] = self.stream(step)
        return self._batches[step]

    def test_set(self) -> tuple[Tensor, Tensor]:
        return self.stream.test_set()


REMEMBERED_BYTES = 600e6
"""Memory for batches that a process has made and may be asked for again; beside a GPU, which would wait for them,
twenty times as much. A stream that would take more than half of it is not remembered."""

_STREAMS: OrderedDict[DataStream | NoisyLabels, tuple[_RememberedStream, float]] = OrderedDict()
"""What is remembered, and how much a whole run of it takes; the last that was asked for comes last."""


class Observer(Protocol):
    """A probe that makes its own result of a block."""

    @property
    def steps(self) -> frozenset[int]:
        """Steps at which it wants to see the networks."""

    @property
    def curve_steps(self) -> NDArray[np.int64]:
        """Steps at which it wants the learning curves."""

    def __call__(self, step: int, networks: Networks) -> None:
        """See the networks."""

    def result(self, trained: EnsembleResult) -> EnsembleResult:
        """What is kept of the block."""


@lru_cache(maxsize=8)
def _described(config: TrainingConfig) -> dict[str, Any]:
    """A configuration as JSON has it; a key is made for every half of every block, to see whether it was kept."""
    return asdict(config)


@dataclass(frozen=True)
class Block:
    """Cells that train as one ensemble.

    Attributes:
        config: what is trained.
        gamma: feature-learning strengths.
        eta: learning rates before the width multiplier.
        seed: seeds.
    """

    config: TrainingConfig
    gamma: tuple[float, ...]
    eta: tuple[float, ...]
    seed: tuple[int, ...]

    def key(self) -> dict[str, Any]:
        """Everything that the result depends on.

        Returns:
            JSON-ready, the key of the block's shard.
        """
        cells = {"gamma": self.gamma, "eta": self.eta, "seed": self.seed}
        return {"config": _described(self.config)} | cells

    def halves(self) -> tuple[Block, ...]:
        """The two blocks that take this one's place where it does not fit in memory.

        Returns:
            The first half of the cells and the rest; nothing when there is a single cell.
        """
        middle = len(self.gamma) // 2
        parts = (slice(middle), slice(middle, None)) if middle else ()
        return tuple(replace(self, gamma=self.gamma[p], eta=self.eta[p], seed=self.seed[p]) for p in parts)

    def observer(self) -> Observer | None:
        """Who is shown the networks while they train; nobody here, blocks that measure have one."""
        return None


def _stream(config: TrainingConfig, seed: int) -> _RememberedStream | DataStream | NoisyLabels:
    """The stream of a seed, the same one for every depth; as many as there is memory for are remembered."""
    stream = config.stream(seed)
    size = 4.0 * config.steps * stream.batch_size * (stream.input_dim + stream.num_classes)
    allowed = REMEMBERED_BYTES * (1 if config.device == "cpu" else 20)
    if size > allowed / 2:
        return stream
    kept, known = _STREAMS.pop(stream, (_RememberedStream(stream), 0.0))
    while _STREAMS and size + sum(taken for _, taken in _STREAMS.values()) > allowed:
        _STREAMS.popitem(last=False)
    _STREAMS[stream] = kept, max(size, known)
    return kept


def train_block(block: Block, device: str | None = None) -> EnsembleResult:
    """Train the cells of a block.

    Args:
        block: what to train.
        device: which device of the configuration's kind; the configuration's own when ``None``.

    Returns:
        Their results, in the order of the cells.
    """
    if device is not None:  # what measures has to be there too
        block = replace(block, config=replace(block.config, device=device))
    config = block.config
    with reproducible_torch(config.device):
        ensemble = Ensemble(
            config.spec(),
            np.array(block.gamma),
            np.array(block.eta),
            np.array(block.seed, dtype=np.int64),
            stream=lambda seed: _stream(config, seed),
            loss=config.loss,
            optimizer=config.optimizer,
            beta=config.beta,
            schedule=config.schedule,
            warmup=config.warmup,
            weight_decay=config.weight_decay,
            dtype=config.dtype,
            device=config.device,
            thresholds=config.thresholds,
        )
        observer = block.observer()
        if observer is None:
            return ensemble.run(config.steps, log_spaced_steps(config.steps))
        seen = ensemble.run(config.steps, observer.curve_steps, probe=observer, probe_steps=observer.steps)
        return observer.result(seen)


_CURVES = ("curve_steps", "loss_curve", "accuracy_curve")


def to_arrays(result: EnsembleResult) -> dict[str, NDArray]:
    """Flatten a result into the arrays of a shard.

    Args:
        result: of one block.

    Returns:
        Arrays by name.
    """
    return result.cells.fields() | {name: getattr(result, name) for name in _CURVES}


def from_arrays(arrays: Mapping[str, NDArray]) -> EnsembleResult:
    """Build a result from the arrays of a shard.

    Args:
        arrays: as ``to_arrays`` gives them.

    Returns:
        The result.
    """
    cells = {name: values for name, values in arrays.items() if name not in _CURVES}
    return EnsembleResult(CellResults(**cells), *(arrays[name] for name in _CURVES))


@contextmanager
def reproducible_torch(device: str) -> Iterator[None]:
    """Settings under which two runs of a block agree: one thread, deterministic kernels, no TF32, no denormal stalls.

    Args:
        device: where the block trains; threads are left alone unless it is the CPU.

    Yields:
        Nothing; the settings that were there come back.
    """
    threads, deterministic = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    # use_deterministic_algorithms would do the same, and import the compiler (a second for each worker) to tell it
    torch.set_deterministic_debug_mode("warn")
    # every buffer here is written before it is read
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.set_flush_denormal(True)
    if torch_device(device).type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
        torch.set_deterministic_debug_mode(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
