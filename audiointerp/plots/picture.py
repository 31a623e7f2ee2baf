"""A figure that displays itself in a notebook and is saved for screen or print."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from PIL import Image
from scipy.spatial import cKDTree

from audiointerp.storage import claim, replacing, write_atomically

if TYPE_CHECKING:
    pass


PRINT_WIDTH = 7.0
"""Inches that figures for print are wide: both columns of a page."""
PRINT_DPI = 300


class Picture(Figure):
    """A figure that needs no global plotting state and shows itself in a notebook.

    Attributes
    ----------
    screen_dpi : int
        Pixels per inch in a notebook.
    colour_maps : tuple of str
        The colour maps that it is drawn with, where there are no other colours: pictures for a
        screen then have only 256 colours, evenly from these maps, and a third of the size.
    """

    screen_dpi = 90
    colour_maps: tuple[str, ...] = ()

    def save_print(self, stem: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write the picture for print, as PDF and as PNG.

        Parameters
        ----------
        stem : path
            Of both files; ``.pdf`` or ``.png`` at its end is left out. The folder is made.

        Returns
        -------
        pdf, png : Path
            Text in the PDF is text, in embedded TrueType fonts; cells have sharp edges, whatever
            the viewer. The PNG has 300 dpi. The same picture always gives the same bytes.
        """
        path = Path(stem)
        if path.suffix.lower() in (".pdf", ".png"):
            path = path.with_suffix("")
        pdf, png = (Path(f"{path}.{ending}") for ending in ("pdf", "png"))
        pdf.parent.mkdir(parents=True, exist_ok=True)
        # Cells are drawn at twice the resolution: at 300 dpi a small panel has fewer pixels than
        # frames and would drop some of them. The PNG takes the mean of every two by two pixels.
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=2 * PRINT_DPI, pil_kwargs={"compress_level": 1})
        small = Image.open(buffer).convert("RGB").reduce(2)
        with claim(pdf, png):
            pdf.parent.mkdir(parents=True, exist_ok=True)
            # One picture per panel: together, with what lies between them, they are twice as large.
            options = {"pdf.fonttype": 42, "image.composite_image": False}
            with rc_context(options), replacing(pdf) as partial:
                self.savefig(partial, dpi=2 * PRINT_DPI, metadata={"CreationDate": None})
            with replacing(png) as partial:
                small.save(partial, dpi=(PRINT_DPI, PRINT_DPI), optimize=True)
        return pdf, png

    def save_screen(self, path: str | os.PathLike[str], dpi: int = 80) -> Path:
        """Write the picture as a small PNG to look at on a screen."""
        return write_atomically(path, self._screen_png(dpi))

    def _screen_png(self, dpi: int) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=dpi)
        if not self.colour_maps:
            return buffer.getvalue()
        small = io.BytesIO()
        _reduce(Image.open(buffer).convert("RGB"), self.colour_maps).save(small, "png")
        return small.getvalue()

    def _repr_png_(self) -> bytes:
        return self._screen_png(self.screen_dpi)


def _reduce(image: Image.Image, names: tuple[str, ...]) -> Image.Image:
    """Return an image with the nearest of 256 colours, evenly from some colour maps."""
    steps = np.linspace(0, 1, 256 // len(names))
    palette = np.concatenate([colormaps[name](steps)[:, :3] for name in names])
    palette = (255 * palette).round().astype("u1")
    pixels = np.asarray(image, "u4")
    packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    found, places = np.unique(packed, return_inverse=True)
    nearest = cKDTree(palette).query(np.stack([found >> 16, found >> 8 & 255, found & 255], 1))[1]
    reduced = Image.fromarray(nearest[places].astype("u1").reshape(packed.shape))
    reduced.putpalette(palette.tobytes())
    return reduced


def share_in_words(share: float) -> str:
    """Return a share as whole percent, told apart from none and all."""
    if 0 < share < 0.005:
        return "under 1 %"
    return "over 99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"
