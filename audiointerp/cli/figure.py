"""Draw the figure of one sound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiointerp.cli.options import (
    AboveProbability,
    Background,
    Base,
    Channel,
    Device,
    End,
    Hop,
    Methods,
    Seed,
    Start,
    Targets,
    TopLabels,
    WindowSeconds,
    build_recipe,
)
from audiointerp.cli.wording import say


def figure(
    file: Annotated[Path, typer.Argument(help="Sound file: WAV, OGG, FLAC, MP3.")],
    weights: Annotated[Path, typer.Option("--weights", "-w", help="Weight file.")],
    out: Annotated[Path, typer.Option(help="Where to; .pdf and .png are added.")] = Path("figure"),
    method: Methods = None,
    mask: Annotated[
        list[str] | None, typer.Option(help="Mask of a column, six at most; topK_5, topK_30.")
    ] = None,
    part: Annotated[
        str, typer.Option(help="in: what masks keep; out: what is left without that.")
    ] = "in",
    target: Targets = None,
    top: TopLabels = None,
    above: AboveProbability = None,
    start: Start = None,
    end: End = None,
    window: WindowSeconds = None,
    hop: Hop = None,
    channel: Channel = "mid",
    background: Background = "synthetic",
    base: Base = "floor",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Draw the paper's figure of one sound, methods by masks, as PDF and PNG for print.

    Of a file that is longer than what the model takes, it is of the most confident window.

    It explains one label: --top and --above are for sounds that just one label fits.
    """
    from audiointerp.runs.comparison import check_figure
    from audiointerp.runs.files import compare_methods
    from audiointerp.runs.recipe import SHOWN_MASKS
    from audiointerp.runs.windows import Windowing

    shown = mask or SHOWN_MASKS
    check_figure(shown, part, out)
    recipe = build_recipe(method, target, top, above, masks=shown, base=base, seed=seed)
    comparison = compare_methods(
        file,
        weights,
        background=background,
        device=device,
        recipe=recipe,
        channel=channel,
        windowing=Windowing(start, end, window, hop),
    )
    if comparison.coverage.is_partial:
        say(f"{file}: {comparison.coverage}")
    for path in comparison.plot(shown, part).save_print(out):
        say(path)
