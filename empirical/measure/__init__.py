"""Measurements of trained networks: functions of ``Networks`` and data that say what was learned, and how sharply."""
