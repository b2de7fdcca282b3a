"""Users' own networks by name: ``--arch module:Class``.

``mypackage.mynet:Net`` is imported from the current directory or from Python's path and called with those of

    input_shape   (channels, side, side) of an image, or (d,)       num_classes   outputs
    input_dim     numbers in one example                            width, depth  where the user gave them

that its constructor names. The object is a ``torch.nn.Module`` that maps ``(batch, *input_shape)``, or ``(batch,
input_dim)`` where its constructor names ``input_dim`` and not ``input_shape``, to ``(batch, num_classes)``, without
state between examples. It draws its weights from PyTorch's random numbers, which are seeded. Its output is centred and
divided by γ here. Multipliers of η are those of ``parametrization.width_multipliers``, unless the object has an
attribute ``learning_rates``, a mapping from names of parameters to multipliers, for some or all of them.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

from torch import nn

from empirical.models.module import ModuleArchitecture, ModuleStack
from empirical.models.stack import Placement
from empirical.parametrization import width_multipliers
from theory.errors import InputError, positive_number


@lru_cache(maxsize=16)
def load_class(name: str) -> type[nn.Module]:
    """Import a class.

    Args:
        name: ``module:Class``.

    Returns:
        The class.

    Raises:
        InputError: nothing of that name can be imported, or it is no class of modules.
    """
    where, _, what = name.partition(":")
    if not where or not what.isidentifier() or not all(part.isidentifier() for part in where.split(".")):
        raise InputError("arch", name, "the name of an architecture, or module:Class such as mypackage.mynet:Net")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(where), what, None)
    except Exception as error:  # whatever the user's file raises
        reason = f"importable from {os.getcwd()} or the path, but: {type(error).__name__}: {error}"
        raise InputError("arch", name, reason) from error
    if found is None:
        raise InputError("arch", name, f"a class that {where} has; there is no {what}")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError("arch", name, f"a class of torch.nn.Module; {what} is {found!r}")
    return found


@dataclass(frozen=True)
class UserArchitecture:
    """Specification of a user's network.

    Attributes:
        name: ``module:Class``.
        input_shape: of one example in the data.
        num_classes: outputs.
        width: handed to the constructor, where given.
        depth: likewise.
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    width: int | None = None
    depth: int | None = None

    can_die = False

    def __post_init__(self) -> None:
        names = self._names()
        for option in ("width", "depth"):
            if getattr(self, option) is not None and option not in names:
                raise InputError(option, getattr(self, option), f"not given: {self.name} takes none")
        self._architecture.rates()
        self.rates()

    def _names(self) -> set[str]:
        """What the constructor can be called with."""
        parameters = inspect.signature(load_class(self.name)).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return {"input_shape", "input_dim", "num_classes", "width", "depth"}
        return {p.name for p in parameters}

    def _build(self) -> nn.Module:
        given: dict[str, Any] = {"input_shape": self.input_shape, "input_dim": prod(self.input_shape)}
        given |= {"num_classes": self.num_classes, "width": self.width, "depth": self.depth}
        names = self._names()
        arguments = {name: value for name, value in given.items() if name in names and value is not None}
        try:
            return load_class(self.name)(**arguments)
        except Exception as error:  # whatever the user's constructor raises
            called = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
            reason = f"a class that can be built with ({called}), but: {type(error).__name__}: {error}"
            raise InputError("arch", self.name, reason) from error

    @cached_property
    def _architecture(self) -> ModuleArchitecture:
        flat = "input_dim" in self._names() and "input_shape" not in self._names()
        try:
            return ModuleArchitecture(
                self._build, prod(self.input_shape), self.num_classes, None if flat else self.input_shape
            )
        except InputError:
            raise
        except Exception as error:  # whatever the user's forward raises
            reason = f"a module that takes (batch, *{self.input_shape}), but: {type(error).__name__}: {error}"
            raise InputError("arch", self.name, reason) from error

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape in which the module takes one example."""
        return self._architecture.example_shape

    def parameter_count(self) -> int:
        """Number of weights of one network.

        Returns:
            The number.
        """
        return self._architecture.parameter_count()

    def module(self, seed: int) -> nn.Module:
        """One network at its θ₀.

        Args:
            seed: non-negative integer.

        Returns:
            The user's module, in the precision in which it was built.
        """
        return self._architecture.module(seed)

    def rates(self, normalized: bool = False) -> dict[str, float]:
        """Multiplier of η for each trainable parameter: the module's own ``learning_rates`` before the rule's.

        Args:
            normalized: for optimizers that take every weight equally far.

        Returns:
            One entry a parameter, in the order of ``named_parameters``.

        Raises:
            InputError: ``learning_rates`` names no parameter, or gives a number that is not positive.
        """
        module = self.module(0)
        rates = width_multipliers(module, normalized)
        for name, rate in dict(getattr(module, "learning_rates", {})).items():
            if name not in rates:
                raise InputError("learning_rates", name, "names of trainable parameters: " + ", ".join(rates))
            rates[name] = positive_number(f"learning_rates[{name}]", rate)
        return rates

    def stack(self, placement: Placement) -> ModuleStack:
        """Networks at their θ₀."""
        return ModuleStack(self, placement)

    def matrices(self) -> int:
        """Number of weight tensors with at least two axes: what stands for the depth in tables.

        Returns:
            The number.
        """
        return sum(p.dim() > 1 for p in self.module(0).parameters())

    def source(self) -> str:
        """Fingerprint of the file that defines the class, so that no shard outlives a change of it.

        Returns:
            Twelve hexadecimal digits.
        """
        path = inspect.getsourcefile(load_class(self.name))
        assert path is not None
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()[:12]
