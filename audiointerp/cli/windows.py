"""Report how recordings were split into windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from audiointerp.cli.wording import say

if TYPE_CHECKING:
    from audiointerp.runs.windows import Coverage


def report_windows(recordings: Mapping[tuple[str, str], Coverage]) -> None:
    """List what was analysed of each recording and what was not, by model where that differs."""
    models = {model for model, _ in recordings}
    lines: dict[str, set[str]] = {}
    for (model, clip), coverage in recordings.items():
        lines.setdefault(f"{clip}: {coverage}", set()).add(model)
    for line, of in lines.items():
        say(line if of == models else f"{line} ({', '.join(sorted(of))})")
    if lines:
        say()
