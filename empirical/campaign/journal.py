"""What happened in which order: a chain of hashes, so that a prediction cannot be dated back.

Each line of ``journal.jsonl`` is an event with its time, the hash of what it is about, and the hash of the line before
it. ``predictions.json`` holds the predictions themselves, the manifest their times and hashes.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from empirical.store import MANIFEST, RunDirectory, canonical_json, write_atomically
from theory.errors import InputError

JOURNAL, PREDICTIONS = "journal.jsonl", "predictions.json"


def digest(value: Any) -> str:
    """Hash of a JSON-ready value.

    Args:
        value: nested dicts, lists, strings and numbers.

    Returns:
        SHA-256, hexadecimal.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class Journal:
    """Events of a campaign, in a run directory.

    Args:
        store: the directory; what is there already is read and checked.

    Raises:
        InputError: a journal whose chain is broken, or predictions that are not those of the journal.
    """

    def __init__(self, store: RunDirectory) -> None:
        self.store = store
        self.events: list[dict[str, str]] = []
        self.predictions: dict[str, dict[str, Any]] = {}
        try:
            self._read()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(JOURNAL, str(store.path), f"a journal that can be read ({error})") from None

    def _read(self) -> None:
        file = self.store.path / JOURNAL
        if file.exists():
            self.events = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        before = ""
        for line, event in enumerate(self.events, start=1):
            if event["previous"] != before:
                raise InputError(f"{JOURNAL}, line {line}", event["previous"], "the hash of the line before it")
            before = digest(event)
        file = self.store.path / PREDICTIONS
        if file.exists():
            self.predictions = json.loads(file.read_text(encoding="utf-8"))
        for unit, record in self.predictions.items():
            # predictions.json is written first: a run may have been killed between the two files
            dated = self.event("predicted", unit)
            if dated is not None and dated["sha256"] != digest(record):
                raise InputError(f"{PREDICTIONS}, {unit}", digest(record)[:12], f"as it was made ({dated['sha256']})")

    def event(self, kind: str, unit: str) -> dict[str, str] | None:
        """Look an event up.

        Args:
            kind: ``predicted`` or ``fitted``.
            unit: name of the unit.

        Returns:
            The first such event, or ``None``.
        """
        return next((e for e in self.events if (e["event"], e["unit"]) == (kind, unit)), None)

    def note(self, kind: str, unit: str, about: Any) -> None:
        """Write an event down, once: a continued run does not repeat it.

        Args:
            kind: ``predicted`` or ``fitted``.
            unit: name of the unit.
            about: JSON-ready, what is hashed.
        """
        known = self.event(kind, unit)
        if known is not None:
            if known["sha256"] != digest(about):
                self.store.notice(f"notice: {unit} was {kind} otherwise before: see {JOURNAL}")
            return
        before = digest(self.events[-1]) if self.events else ""
        event = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": kind, "unit": unit}
        self.events.append(event | {"sha256": digest(about), "previous": before})
        lines = "".join(canonical_json(event) + "\n" for event in self.events)
        write_atomically(self.store.path / JOURNAL, lines)

    def predict(self, unit: str, record: dict[str, Any]) -> dict[str, Any]:
        """Write a prediction down before anything is fitted to what it predicts.

        Args:
            unit: name of the unit.
            record: the prediction, JSON-ready.

        Returns:
            The prediction that holds: the first one made, whatever a later run would predict.

        Raises:
            InputError: the unit has been fitted already, without a prediction.
        """
        if self.event("predicted", unit) is None:
            if self.event("fitted", unit) is not None:
                raise InputError("prediction", unit, "made before the fit")
            self.predictions[unit] = json.loads(canonical_json(record))
            write_atomically(self.store.path / PREDICTIONS, json.dumps(self.predictions, indent=2) + "\n")
            self.note("predicted", unit, self.predictions[unit])
            self._tell_manifest()
        return self.predictions[unit]

    def _tell_manifest(self) -> None:
        """Put times and hashes of all predictions into the manifest, beside the configuration."""
        file = self.store.path / MANIFEST
        content = json.loads(file.read_text(encoding="utf-8"))
        dated = {e["unit"]: {k: e[k] for k in ("time", "sha256")} for e in self.events if e["event"] == "predicted"}
        write_atomically(file, json.dumps(content | {"predictions": dated}, indent=2) + "\n")
