"""Draw many short texts on a PDF page quickly."""

from __future__ import annotations

from functools import cache

from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.transforms import IdentityTransform

from audiointerp.plots.words import spell

SIZE = 7
"""Points of a text unless told otherwise."""


class Lettering(Artist):
    """The texts of a page, each where its line begins or ends.

    A page has a thousand short texts. ``Figure.text`` would lay out each as a block of lines,
    which takes seconds a page; here they go to the file as they are.

    Parameters
    ----------
    plain : bool
        Whether in the built-in fonts of PDF.
    """

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.plain = plain
        self.texts: list[tuple[float, float, str, FontProperties, str, str, bool]] = []

    def add(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = SIZE,
        color: str = "black",
        weight: str = "normal",
        align: str = "left",
        underline: bool = False,
    ) -> None:
        """Put a text at a place, inches from the lower left corner; see `plots.words.spell`."""
        if text:
            written, families = spell(text)
            font = _font(size, weight, ("Helvetica",) if self.plain else families)
            self.texts.append((x, y, written, font, color, align, underline))

    def draw(self, renderer: RendererBase) -> None:
        """Draw all texts."""
        inch = renderer.points_to_pixels(72)
        for left, bottom, text, font, color, align, underline in self.texts:
            x, y = left * inch, bottom * inch
            pen = renderer.new_gc()
            pen.set_foreground(color)
            if align == "right" or underline:
                width, _, _ = renderer.get_text_width_height_descent(text, font, ismath=False)
                x -= width if align == "right" else 0
            renderer.draw_text(pen, x, y, text, font, 0)
            if underline:
                pen.set_linewidth(renderer.points_to_pixels(0.5))
                below = y - 0.018 * inch
                line = Outline([(x, below), (x + width, below)])
                renderer.draw_path(pen, line, IdentityTransform())
            pen.restore()


@cache
def _font(size: float, weight: str, families: tuple[str, ...]) -> FontProperties:
    # Helvetica calls its normal weight medium.
    weight = "medium" if families == ("Helvetica",) and weight == "normal" else weight
    return FontProperties(family=list(families), size=size, weight=weight)
