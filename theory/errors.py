"""Bad input raises at the door: one error type, one sentence, for every wing of the toolkit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class InputError(ValueError):
    """A value that a user gave and that cannot be used.

    The message is one line: the field, the value given, what is allowed. The command line prints it and exits with
    code 2.

    Args:
        field: name of the argument, option or file that is wrong.
        given: what was given; shown with ``repr``, shortened when long.
        allowed: what would have been accepted, as a phrase that follows "must be".
    """

    def __init__(self, field: str, given: Any, allowed: str) -> None:
        self.field, self.given, self.allowed = field, given, allowed
        shown = repr(given)
        if len(shown) > 120:  # the ends of a path say most
            shown = shown[:57] + " ... " + shown[-57:]
        super().__init__(f"{field} = {shown}: must be {allowed}")


def positive_integer(field: str, given: Any, least: int = 1) -> int:
    """Check that a count is an integer of at least ``least``.

    Args:
        field: name shown in the error.
        given: the value; integral floats such as ``3.0`` are refused, NumPy integers are taken.
        least: smallest value allowed.

    Returns:
        The value as a Python ``int``.

    Raises:
        InputError: not an integer, or below ``least``.
    """
    if isinstance(given, bool | np.bool_) or not isinstance(given, int | np.integer) or given < least:
        raise InputError(field, given, f"an integer >= {least}")
    return int(given)


def positive_array(field: str, given: ArrayLike) -> NDArray[np.float64]:
    """Check that every entry is a finite number above zero.

    Args:
        field: name shown in the error.
        given: anything that becomes a float array, of any shape.

    Returns:
        The values as float64, in the shape given.

    Raises:
        InputError: not numeric, empty, NaN, infinite, zero or negative; the first offending entry is shown.
    """
    try:
        values = np.asarray(given)
    except (TypeError, ValueError):
        values = np.asarray(None)
    if values.dtype.kind not in "iuf":  # complex, text, booleans and objects are not silently converted
        raise InputError(field, given, "a positive finite number, or an array of them")
    values = values.astype(np.float64)
    if values.size == 0:
        raise InputError(field, given, "at least one positive finite number")
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        raise InputError(field, float(values[wrong].flat[0]), "a positive finite number")
    return values


def positive_number(field: str, given: Any) -> float:
    """Check that a scalar is a finite number above zero.

    Args:
        field: name shown in the error.
        given: the value.

    Returns:
        The value as a Python ``float``.

    Raises:
        InputError: not a real number, not finite, or not above zero.
    """
    if isinstance(given, bool | np.bool_) or not isinstance(given, int | float | np.integer | np.floating):
        raise InputError(field, given, "a positive finite number")
    if not (math.isfinite(given) and given > 0):
        raise InputError(field, float(given), "a positive finite number")
    return float(given)


def one_of(field: str, given: Any, allowed: tuple[str, ...]) -> str:
    """Check that a name is one of a closed list.

    Args:
        field: name shown in the error.
        given: the name.
        allowed: the names that are accepted.

    Returns:
        The name.

    Raises:
        InputError: any other value.
    """
    if not isinstance(given, str) or given not in allowed:
        raise InputError(field, given, "one of " + ", ".join(allowed))
    return given
