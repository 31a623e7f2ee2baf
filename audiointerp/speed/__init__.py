"""Run networks fast: inference copies, batch sizes, numeric precision, equal masks scored once."""

from __future__ import annotations

from audiointerp.speed.memory import keep_freed_memory
from audiointerp.speed.threads import share_processors, usable_processors

__all__ = ["keep_freed_memory", "share_processors", "usable_processors"]
