"""Reads labelled datasets, and says what is wrong with a file that is not one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import xarray as xr

from theory.errors import InputError


def load(
    path: Path | str, kind: str, variables: Iterable[str], attributes: Iterable[str], *, group: str | None = None
) -> xr.Dataset:
    """Read a NetCDF file into memory.

    Args:
        path: the file.
        kind: what it should be, in words.
        variables: variables and coordinates that it must have.
        attributes: attributes that it must have.
        group: NetCDF group; the root when ``None``.

    Returns:
        The dataset.

    Raises:
        InputError: not a readable NetCDF file, or one that lacks something.
    """
    try:
        data = xr.load_dataset(path, group=group, engine="netcdf4")
    except (OSError, ValueError, KeyError) as error:
        raise InputError("portrait", str(path), f"a readable NetCDF {kind} ({error})") from None
    missing = [name for name in variables if name not in data.variables]
    missing += [name for name in attributes if name not in data.attrs]
    if missing:
        raise InputError("portrait", str(path), f"a {kind}; this file lacks {', '.join(missing)}")
    return data
