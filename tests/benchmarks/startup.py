"""How long a user waits before anything happens: importing theory beside importing SymPy, and `richscape --help`."""

from __future__ import annotations

import statistics
import subprocess
import sys

from common import alternate, row, seconds, spread


def table(rounds: int = 9) -> str:
    def python(*arguments: str) -> float:
        return seconds(lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True))

    times = alternate(
        {
            "import sympy": lambda: python("-c", "import sympy"),
            "import theory": lambda: python("-c", "import theory"),
            "richscape --help": lambda: python("-m", "richscape", "--help"),
        },
        rounds,
    )
    beyond = [b - a for a, b in zip(times["import sympy"], times["import theory"], strict=True)]
    lines = [row("process", "seconds, median (range)"), row("---", "---")]
    lines += [row(f"`{name}`", spread(values)) for name, values in times.items()]
    lines.append(row("`import theory` beyond `import sympy`, pair by pair", spread(beyond)))
    assert statistics.median(beyond) < statistics.median(times["import theory"])
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
