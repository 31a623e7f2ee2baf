"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from audiointerp.runs.recipe import Recipe
    from audiointerp.runs.targets import Target

Weights = Annotated[
    list[Path], typer.Option("--weights", "-w", help="Weight file; may be given several times.")
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        help="Method, may be given several times: saliency, gradcam, lime, shap by default; "
        "'audiointerp methods' lists all of them; all.",
    ),
]
Base = Annotated[str, typer.Option(help="What a removed cell becomes: floor, minimum, quiet.")]
Places = Annotated[
    list[str], typer.Option("--on", help="What metrics are measured on: features, audio.")
]
Extra = Annotated[
    list[str] | None,
    typer.Option(
        "--extra", help="Also metrics on request: curves, 'robust fidelity', speechbrain."
    ),
]
Seed = Annotated[int, typer.Option(help="For everything that is drawn at random.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …, mps.")]
Subset = Annotated[str | None, typer.Option(help="Part of the set: esc10.")]
Alpha = Annotated[
    float | None, typer.Option(help="Share of the clip in α·clip + (1-α)·noise; 0.6 by default.")
]
SnrDb = Annotated[float | None, typer.Option(help="The clip's level over the noise, dB, instead.")]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="Label to explain, may be given several times; the predicted one by default.",
    ),
]
TopLabels = Annotated[
    int | None, typer.Option("--top", help="Explain this many labels, the most probable ones.")
]
AboveProbability = Annotated[
    float | None, typer.Option("--above", help="Explain every label of at least this probability.")
]
OwnLabels = Annotated[
    bool, typer.Option("--true-labels", help="Explain the labels that the set says a clip has.")
]
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
Channel = Annotated[
    str,
    typer.Option(
        help="mid, the mean of all channels; left; right; side, half the difference of two."
    ),
]
TRAIN_FOLDS = ["1", "2", "3"]
"""The folds that models are trained on unless told otherwise."""


def build_target(
    names: Sequence[str] | None,
    top: int | None = None,
    above: float | None = None,
    *,
    true_labels: bool = False,
) -> Target:
    """Return what ``--target``, ``--top``, ``--above`` and ``--true-labels`` ask for.

    Raises
    ------
    ValueError
        If more than one of them is given.
    """
    from audiointerp.runs.targets import Above, Top, TrueLabels

    given = {
        "--target": names or None,
        "--top": top,
        "--above": above,
        "--true-labels": true_labels or None,
    }
    used = [option for option, value in given.items() if value is not None]
    if len(used) > 1:
        raise ValueError(f"{' and '.join(used)} both say which labels to explain: give one of them")
    if top is not None:
        return Top(top)
    if above is not None:
        return Above(above)
    if true_labels:
        return TrueLabels()
    if not names:
        return None
    return names[0] if len(names) == 1 else list(names)


def build_recipe(
    methods: Sequence[str] | None,
    target: Sequence[str] | None,
    top: int | None,
    above: float | None,
    *,
    true_labels: bool = False,
    **options: Any,
) -> Recipe:
    """Return the recipe of a command: its methods, the labels to explain and what it has else."""
    from audiointerp.runs.recipe import Recipe

    labels = build_target(target, top, above, true_labels=true_labels)
    return Recipe(methods=methods, target=labels, **options)


def read_fold(text: str) -> int | str:
    """Return a fold as sets name it: the number that a text is, or the name of a split."""
    return int(text) if text.isdecimal() else text
