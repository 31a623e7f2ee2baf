"""Get or make data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiointerp.cli.options import Seed
from audiointerp.cli.wording import say


def esc50(
    root: Annotated[Path, typer.Argument(help="Folder to put ESC-50 into.")],
) -> None:
    """Download ESC-50 (600 MB), check it and unpack it; a broken download is taken up again."""
    from audiointerp.dataset.download import download_esc50

    say(f"ESC-50 is in {download_esc50(root)}")


def samples(
    root: Annotated[Path, typer.Argument(help="Folder of your ESC-50.")],
    destination: Annotated[Path, typer.Argument(help="Folder to copy the clips to.")],
    overwrite: Annotated[bool, typer.Option(help="Replace files that are there.")] = False,
) -> None:
    """Copy the six original sample clips out of your ESC-50."""
    from audiointerp.dataset.download import copy_samples

    for path in copy_samples(root, destination, overwrite=overwrite).values():
        say(path)


def synthetic(
    root: Annotated[Path, typer.Argument(help="Folder to write the set to.")],
    seed: Seed = 0,
) -> None:
    """Write the synthetic set as files, laid out like ESC-50."""
    from audiointerp.dataset.synthetic import write_synthetic

    say(f"the synthetic set is in {write_synthetic(root, seed=seed)}")
