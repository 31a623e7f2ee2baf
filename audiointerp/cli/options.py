"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Weights = Annotated[
    list[Path], typer.Option("--weights", "-w", help="Weight file; may be given several times.")
]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", "-m", help="saliency, gradcam, lime, shap; all by default."),
]
Base = Annotated[str, typer.Option(help="What a removed cell becomes: floor, minimum, quiet.")]
Places = Annotated[
    list[str], typer.Option("--on", help="What metrics are measured on: features, audio.")
]
Seed = Annotated[int, typer.Option(help="For everything that is drawn at random.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Subset = Annotated[str | None, typer.Option(help="Part of the set: esc10.")]
Alpha = Annotated[
    float | None, typer.Option(help="Share of the clip in α·clip + (1-α)·noise; 0.6 by default.")
]
SnrDb = Annotated[float | None, typer.Option(help="The clip's level over the noise, dB, instead.")]
Target = Annotated[str | None, typer.Option(help="Class to explain; the predicted one by default.")]
Background = Annotated[
    str, typer.Option(help="Set that SHAP compares with: 'synthetic' or a folder.")
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        help="'synthetic'; a folder: ESC-50, UrbanSound8K, AudioSet, or one folder per class; "
        "or a table, its columns named as in 'set.csv?label=tag'; see docs/data.md.",
    ),
]
Start = Annotated[float | None, typer.Option(help="Analyse from this second on.")]
End = Annotated[float | None, typer.Option(help="Analyse up to this second.")]
WindowSeconds = Annotated[
    float | None,
    typer.Option("--window", help="Seconds of a window; the model's duration by default."),
]
Hop = Annotated[
    float | None, typer.Option(help="Seconds from one window to the next; half a window.")
]
