"""Compiles the loops of this package, and keeps the machine code where a change of any loop is noticed.

Numba's own cache looks at the file of a function only: after a change to a function that it calls from another file the
old machine code would be run. Here the cache lies in a folder named after a digest of all files with compiled loops.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config, njit

_HERE = Path(__file__).parent.parent


def _cache_folder() -> str | None:
    """The folder for machine code of exactly these sources; ``None`` where it cannot be made."""
    digest = hashlib.blake2b(digest_size=8)
    for source in sorted(_HERE.rglob("*.py")):
        text = source.read_bytes()
        if b"@compiled" in text:
            digest.update(text)
    folder = _HERE / "__pycache__" / f"numba-{digest.hexdigest()}"
    try:
        if not folder.is_dir():
            for old in folder.parent.glob("numba-*"):
                shutil.rmtree(old, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
        return str(folder)
    except OSError:
        return None


_FOLDER = _cache_folder()


def compiled(**options: Any) -> Callable[[Callable], Any]:
    """Numba's ``njit`` with a cache that knows when any loop of the package has changed.

    Args:
        **options: for ``numba.njit``, such as ``parallel`` or ``inline``.

    Returns:
        A decorator.
    """

    def decorate(function: Callable) -> Any:
        kept = config.CACHE_DIR  # type: ignore[attr-defined]
        config.CACHE_DIR = _FOLDER or kept  # type: ignore[attr-defined]
        try:
            return njit(cache=True, **options)(function)
        finally:
            config.CACHE_DIR = kept  # type: ignore[attr-defined]

    return decorate
