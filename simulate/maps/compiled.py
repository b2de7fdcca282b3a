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

MARKS = (b"@compiled", b"@intrinsic")
"""What files with compiled loops have in them."""


def cache_folder(root: Path) -> str | None:
    """The folder for machine code of exactly these sources; those of earlier sources are thrown away.

    Args:
        root: the folder of a package.

    Returns:
        Its path; ``None`` where it cannot be made.
    """
    digest = hashlib.blake2b(digest_size=8)
    for source in sorted(root.rglob("*.py")):
        text = source.read_bytes()
        if any(mark in text for mark in MARKS):
            digest.update(text)
    folder = root / "__pycache__" / f"numba-{digest.hexdigest()}"
    try:
        if not folder.is_dir():
            for old in folder.parent.glob("numba-*"):
                shutil.rmtree(old, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
        return str(folder)
    except OSError:
        return None


def compiler(root: Path) -> Callable[..., Callable[[Callable], Any]]:
    """Numba's ``njit`` with a cache that knows when any loop of a package has changed.

    Args:
        root: the folder of the package; its files are read at once.

    Returns:
        Takes options for ``numba.njit``, such as ``parallel`` or ``inline``, gives a decorator. Its name is to be
        ``compiled``: it is by ``@compiled`` that files with loops are known.
    """
    cache = cache_folder(root)

    def compiled(**options: Any) -> Callable[[Callable], Any]:
        def decorate(function: Callable) -> Any:
            kept = config.CACHE_DIR  # type: ignore[attr-defined]
            config.CACHE_DIR = cache or kept  # type: ignore[attr-defined]
            try:
                return njit(cache=True, **options)(function)
            finally:
                config.CACHE_DIR = kept  # type: ignore[attr-defined]

        return decorate

    return compiled


compiled = compiler(Path(__file__).parent.parent)
"""``njit`` for the loops of ``simulate``."""
