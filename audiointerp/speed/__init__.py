"""Run networks fast: inference copies, batch sizes, numeric precision, equal masks scored once."""

from __future__ import annotations

from audiointerp.speed.memory import keep_freed_memory

__all__ = ["keep_freed_memory"]
