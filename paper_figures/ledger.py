"""The ledger of claims: what the paper and this project say, beside what was measured, with a verdict on each.

A claim has an id, a statement and a source, and a judge: a function from measured data to a prediction, a measured
number with its 95 % interval, and a verdict. The rule of each verdict is the docstring of its judge. A claim whose data
were not computed in this run is ``undetermined`` and says which command computes them.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from simulate import ScalingFit
from simulate.scaling import LEAST_GAMMAS, WIDEST_HALF_WIDTH

SUPPORTED, NOT_SUPPORTED, UNDETERMINED = "supported", "not supported", "undetermined"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, UNDETERMINED)
COLUMNS = (
    *("id", "statement", "source", "predicted", "measured", "ci_low", "ci_high", "verdict", "detail"),
    *("figure", "command", "rule"),
)
PAPER = "arXiv:2410.04642"
"""The source of the claims that are the paper's."""

FROM_CAMPAIGN = "campaign "
"""How the detail begins of a finding that is not from this run but from a campaign; then its name and a colon."""

NOTHING = (math.nan, math.nan)
"""The interval of what has none."""

TEMPLATE = Path(__file__).with_name("claims.html.jinja")


@dataclass(frozen=True)
class Finding:
    """What a judge says.

    Attributes:
        predicted: what theory or the paper says, as text.
        measured: the number measured; NaN where there is none.
        interval: its 95 % interval.
        verdict: one of ``VERDICTS``.
        detail: what the number is, or why there is no verdict.
        needs: what would decide it; shown where the verdict is ``undetermined``.
    """

    predicted: str
    measured: float
    interval: tuple[float, float]
    verdict: str
    detail: str = ""
    needs: str = ""

    @property
    def whole_detail(self) -> str:
        """The detail; of an undetermined finding also what would decide it."""
        return f"{self.detail}; needs {self.needs}" if self.verdict == UNDETERMINED and self.needs else self.detail


class Evidence(Protocol):
    """Whatever holds the data that judges ask for by name."""

    def __getattr__(self, name: str) -> Any:
        """Data by name."""


@dataclass(frozen=True)
class Claim:
    """A statement that data can bear out or not.

    Attributes:
        id: short name.
        statement: one sentence.
        source: where it is from.
        figure: which figure's experiments bear on it.
        needs: names of the data that the judge takes, in order.
        judge: from these data to a finding.
        also: names of data that the judge takes after these, ``None`` for those that are not there.
    """

    id: str
    statement: str
    source: str
    figure: str
    needs: tuple[str, ...]
    judge: Callable[..., Finding]
    also: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """The rule of the verdict: the docstring of the judge, on one line."""
        return " ".join(re.split(r"Args:|Returns:", self.judge.__doc__ or "")[0].split())

    def row(self, data: dict[str, Any], command: str) -> dict[str, str | float]:
        """Judge the claim.

        Args:
            data: what was computed, by name.
            command: what computed it, with ``{figure}`` where the name of a figure goes.

        Returns:
            One row, in ``COLUMNS``.
        """
        made = command.format(figure=self.figure)
        if all(name in data for name in self.needs):
            finding = self.judge(*(data[name] for name in self.needs), *(data.get(name) for name in self.also))
        else:
            nan = float("nan")
            finding = Finding("", nan, (nan, nan), UNDETERMINED, f"not computed in this run: {made}")
        return {
            "id": self.id,
            "statement": self.statement,
            "source": self.source,
            "predicted": finding.predicted,
            "measured": finding.measured,
            "ci_low": finding.interval[0],
            "ci_high": finding.interval[1],
            "verdict": finding.verdict,
            "detail": finding.whole_detail,
            "figure": self.figure,
            "command": made,
            "rule": self.rule,
        }


def of_fit(fit: ScalingFit | None, *, symbol: str = "") -> Finding:
    """A finding from a fitted exponent: supported when the fit is consistent with the law over the same points.

    Args:
        fit: the fit; ``None`` when theory left no window or no point was met.
        symbol: the predicted exponent in symbols.

    Returns:
        The finding.
    """
    if fit is None:
        needs = "a wider range of γ or a larger T, which open the window that theory leaves"
        return Finding(symbol, math.nan, NOTHING, UNDETERMINED, "no point in the fit window", needs)
    words = {"consistent": SUPPORTED, "inconsistent": NOT_SUPPORTED, "undetermined": UNDETERMINED}
    law = fit.predicted_window
    predicted = f"{symbol} = {fit.predicted:.3g}" if symbol else f"{fit.predicted:.3g}"
    if np.isfinite(law) and abs(law - fit.predicted) > 5e-4:
        predicted += f" ({law:.3g} on the window)"
    detail = f"slope over γ in [{fit.window[0]:.3g}, {fit.window[1]:.3g}], {fit.n_points} points at {fit.n_gamma} γ"
    detail += f": {fit.explanation}" if fit.explanation else ""
    return Finding(predicted, fit.exponent, fit.interval, words[fit.verdict], detail, fit_needs(fit))


def fit_needs(fit: ScalingFit) -> str:
    """What would decide an undetermined fit.

    Args:
        fit: the fit.

    Returns:
        In words. A half-width falls with the root of the number of γ and in proportion to the window's length.
    """
    if fit.n_gamma < LEAST_GAMMAS or not math.isfinite(fit.half_width):
        return f"at least {LEAST_GAMMAS} γ in the window"
    ratio = fit.half_width / WIDEST_HALF_WIDTH
    return f"about {times(ratio**2)} as many γ in the window, or a window {times(ratio)} as long in ln γ"


def times(factor: float) -> str:
    """A factor, rounded up, in words.

    Args:
        factor: any.

    Returns:
        Such as ``3 times`` or ``1.5 times``.
    """
    tenths = math.ceil(10 * factor - 1e-6)  # what rounding adds is no reason to ask for more
    rounded = tenths / 10 if factor < 3 else math.ceil(factor - 1e-6)
    return f"{rounded:g} times"


def against(
    predicted: str, value: float, interval: tuple[float, float], threshold: float, detail: str, unit: str = "seeds"
) -> Finding:
    """A finding on "more than a threshold", as ``above`` judges it.

    Args:
        predicted: as text.
        value: the number.
        interval: of the number.
        threshold: what it is held against.
        detail: what the number is.
        unit: what the interval is over, of which an undetermined finding needs more.

    Returns:
        The finding. What it needs rests on a half-width that falls with the root of the number of units, and on a value
        that stays.
    """
    half, gap = (interval[1] - interval[0]) / 2, abs(value - threshold)
    more = times((half / gap) ** 2) + " as many" if gap > 0 and math.isfinite(half) else "more"
    return Finding(predicted, value, interval, above(interval, threshold), detail, f"about {more} {unit}")


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Mean of independent values with Student's interval.

    Args:
        values: any shape; non-finite ones are left out.
        confidence: level.

    Returns:
        The mean and its interval, infinite for fewer than two values.
    """
    known = np.asarray(values, dtype=np.float64).ravel()
    known = known[np.isfinite(known)]
    if len(known) == 0:
        return math.nan, (math.nan, math.nan)
    mean = float(known.mean())
    if len(known) < 2:
        return mean, (-math.inf, math.inf)
    half = float(stats.t.ppf(0.5 + confidence / 2, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
    return mean, (mean - half, mean + half)


def known_mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Mean of what is known along an axis.

    Args:
        values: any shape; NaN where nothing is known.
        axis: along which.

    Returns:
        The means; NaN where nothing is known.
    """
    return np.ma.masked_invalid(values).mean(axis).filled(np.nan)


def above(interval: tuple[float, float], threshold: float) -> str:
    """Verdict on "more than a threshold": supported or not when the whole interval lies on one side.

    Args:
        interval: of the measured number.
        threshold: what it is held against.

    Returns:
        The verdict.
    """
    if interval[0] > threshold:
        return SUPPORTED
    return NOT_SUPPORTED if interval[1] < threshold else UNDETERMINED


def within(interval: tuple[float, float], ends: tuple[float, float]) -> str:
    """Verdict on "between two ends": supported when the whole interval lies between them, not when it lies outside.

    Args:
        interval: of the measured number.
        ends: what it has to lie between, (low, high).

    Returns:
        The verdict.
    """
    if interval[0] >= ends[0] and interval[1] <= ends[1]:
        return SUPPORTED
    return NOT_SUPPORTED if interval[0] > ends[1] or interval[1] < ends[0] else UNDETERMINED


def share_interval(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share.

    Args:
        hits: how many.
        trials: of how many.
        confidence: level.

    Returns:
        The interval; (0, 1) without trials.
    """
    if trials == 0:
        return 0.0, 1.0
    found = stats.binomtest(hits, trials).proportion_ci(confidence)
    return float(found.low), float(found.high)


def judge_all(claims: Iterable[Claim], data: dict[str, Any], command: str) -> pd.DataFrame:
    """Judge claims.

    Args:
        claims: the claims.
        data: what was computed, by name.
        command: as for ``Claim.row``.

    Returns:
        The ledger, one row a claim, in ``COLUMNS``.
    """
    return pd.DataFrame([claim.row(data, command) for claim in claims], columns=list(COLUMNS))


def number(value: float) -> str:
    """A number as tables and captions show it.

    Args:
        value: any.

    Returns:
        Three significant digits; a dash for none.
    """
    if not np.isfinite(value):
        return "–"
    digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 3)}f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.2e}"


def measured(row: pd.Series) -> str:
    """Measured number and interval of a row, as captions show them.

    Args:
        row: of the ledger.

    Returns:
        Such as ``0.67 [0.60, 0.74]``, and which campaign it is from where it is from one.
    """
    if not np.isfinite(row["measured"]):
        return "not determined"
    text, detail = number(row["measured"]), str(row.get("detail", ""))
    if np.isfinite(row["ci_low"]):
        text += f" [{number(row['ci_low'])}, {number(row['ci_high'])}]"
    return text + (f" ({detail.split(':')[0]})" if detail.startswith(FROM_CAMPAIGN) else "")


def to_csv(ledger: pd.DataFrame) -> str:
    """The ledger as ``claims.csv``.

    Args:
        ledger: as ``judge_all`` gives it.

    Returns:
        Text.
    """
    buffer = io.StringIO()
    ledger.to_csv(buffer, index=False, float_format="%.6g")
    return buffer.getvalue()


def to_html(ledger: pd.DataFrame, provenance: str) -> str:
    """The ledger as one self-contained page.

    Args:
        ledger: as ``judge_all`` gives it.
        provenance: a line that says what made it.

    Returns:
        HTML.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    rows = [row | {"shown": measured(pd.Series(row))} for row in ledger.to_dict("records")]
    counts = {verdict: int((ledger["verdict"] == verdict).sum()) for verdict in VERDICTS}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return page.render(rows=rows, counts=counts, provenance=provenance)
