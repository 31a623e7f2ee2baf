r"""Draw names in plots literally.

matplotlib reads ``$a_b$`` as a formula and fails at ``$\foo$``, leaves out legend entries that
begin with an underscore, and draws boxes for letters that its font lacks. Names of files, classes
and models may hold all of that. So every text of a picture is written through this module.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from matplotlib import font_manager, get_cachedir, rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.text import Text

from audiointerp.text import printable

_PREFERRED = (
    "Noto Sans CJK SC",
    "Noto Sans CJK",
    "Source Han Sans",
    "PingFang",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "WenQuanYi",
    "Noto Sans",
    "Arial Unicode",
    "Segoe UI",
)
"""What the families begin with that are searched first for a letter; then come all others."""
_NO_LETTERS = ("Last Resort", "LastResort", "STIX", "cm")
"""What those of matplotlib's own families begin with that have boxes or parts of formulas."""


_RESERVE = 0.93
"""Share of the room that a text may take: letters are wider at some resolutions."""


class Spelling(NamedTuple):
    """A text as it can be drawn, and the font families that have its letters."""

    text: str
    families: tuple[str, ...]


def spell(text: str) -> Spelling:
    """Return how a text is drawn: in the usual font, and others for letters that it lacks.

    Letters that no installed font has are written as their codes, with a warning.

    Parameters
    ----------
    text : str
        One line; see `audiointerp.text.printable`.

    Returns
    -------
    Spelling
        The families are those of ``rcParams["font.family"]``, and where they are needed others
        after them.
    """
    text, usual = printable(text), tuple(rcParams["font.family"])
    if text.isascii():
        return Spelling(text, usual)
    known = font_manager.get_font(font_manager.findfont(FontProperties(family=usual)))
    lacking = frozenset(sign for sign in text if not known.get_char_index(ord(sign)))
    if not lacking:
        return Spelling(text, usual)
    found = _fonts_with(lacking, len(font_manager.fontManager.ttflist))
    families = tuple(dict.fromkeys(found.values()))
    if missing := lacking - found.keys():
        _warn_once("".join(sorted(missing)))
        codes = {ord(sign): sign.encode("unicode_escape").decode("ascii") for sign in missing}
        text = text.translate(codes)
    return Spelling(text, usual + families)


@cache
def _warn_once(letters: str) -> None:
    warnings.warn(
        f"no installed font has the letters {letters!r}: pictures show their codes. Install a font "
        "of that script, such as one of the Noto Sans families (Noto Sans CJK for Chinese, "
        f"Japanese and Korean), and remove matplotlib's list of fonts in {get_cachedir()}",
        stacklevel=4,
    )


@cache
def _fonts_with(letters: frozenset[str], installed: int) -> dict[str, str]:
    """Return a family for every letter that one of the installed fonts has."""
    found: dict[str, str] = {}
    files = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    for family in sorted(files, key=_preference):
        if family.startswith(_NO_LETTERS):
            continue
        try:
            font = font_manager.get_font(files[family])
        except (OSError, RuntimeError):  # removed since matplotlib listed it
            continue
        has = [letter for letter in letters - found.keys() if font.get_char_index(ord(letter))]
        found |= dict.fromkeys(has, family)
        if len(found) == len(letters):
            break
    return found


def _preference(family: str) -> tuple[int, str]:
    ranks = (rank for rank, start in enumerate(_PREFERRED) if family.startswith(start))
    return next(ranks, len(_PREFERRED)), family


def as_written(
    text: Text, *, inches: float | None = None, smallest: float | None = None, lines: bool = False
) -> Text:
    """Have a text of a picture drawn as it is written: no formulas, no TeX, all its letters.

    Parameters
    ----------
    text : Text
        As ``Axes.set_title``, ``Axes.text`` and the like return it.
    inches : float, optional
        Room across. Of a text that is longer, the middle is left out, with an ellipsis there.
    smallest : float, optional
        Points that its letters may shrink to before anything is left out; by default they keep
        their size.
    lines : bool
        Whether a newline begins a new line; otherwise its code is written.

    Returns
    -------
    Text
        The same, changed.
    """
    words = text.get_text()
    spelt = [spell(line) for line in (words.split("\n") if lines else [words])]
    _set(text, spelt, inches, smallest)
    return text


def inches_across(axes: Axes) -> float:
    """Return how wide axes are, inches: the room of a title."""
    return axes.get_position().width * axes.get_figure().get_figwidth()


def label_ticks(
    axis: Axis,
    places: Sequence[float],
    names: Sequence[str],
    *,
    inches: float | None = None,
    **look: object,
) -> None:
    """Write names at places of an axis.

    Parameters
    ----------
    axis : Axis
    places : sequence of float
    names : sequence of str
        One for each place.
    inches : float, optional
        Room of a name; see `as_written`.
    **look
        Options of the texts, such as ``fontsize``.
    """
    axis.set_ticks(places)
    shown = []
    for tick, name in zip(axis.get_major_ticks(), names, strict=True):
        for text in (tick.label2, tick.label1):
            text.update(look)
            _set(text, [spell(str(name))], inches)
        shown.append(tick.label1.get_text())
    # An axis writes its labels anew whenever it is drawn.
    axis.set_ticklabels(shown)


def write_legend(
    axes: Axes, names: Mapping[str, Artist], *, inches: float | None = None, **look: object
) -> Legend:
    """Add a legend, whatever its names begin with.

    Parameters
    ----------
    axes : Axes
    names : mapping of str to Artist
        What is drawn, by the name to write beside it.
    inches : float, optional
        Room of a name; see `as_written`.
    **look
        Options of ``Axes.legend``.
    """
    # An entry that begins with an underscore would be left out.
    legend = axes.legend(list(names.values()), [f"{place}" for place in range(len(names))], **look)
    for text, (name, artist) in zip(legend.get_texts(), names.items(), strict=True):
        artist.set_label(name)
        _set(text, [spell(name)], inches)
    return legend


def _set(
    text: Text, lines: Sequence[Spelling], inches: float | None, smallest: float | None = None
) -> None:
    text.set_parse_math(False)
    text.set_usetex(False)
    text.set_fontfamily(list(dict.fromkeys(name for line in lines for name in line.families)))
    text.set_text("\n".join(line.text for line in lines))
    if inches is not None:
        _fit(text, inches, smallest)


def _fit(text: Text, inches: float, smallest: float | None) -> None:
    """Shrink a text that is wider than its room, then leave out its middle."""
    whole = text.get_text()
    if len(whole) * text.get_fontsize() <= 72 * inches:  # no letter is wider than it is high
        return
    rotation = text.get_rotation()
    text.set_rotation(0)
    room = _RESERVE * inches * text.get_figure().dpi
    if smallest is not None:
        # Step by step: hinted letters do not scale evenly.
        while text.get_window_extent().width > room and text.get_fontsize() > smallest:
            text.set_fontsize(max(smallest, text.get_fontsize() - 0.25))
    if text.get_window_extent().width > room:
        # The whole is not tried again: an ellipsis may be wider than the letter it stands for.
        fits, tried = 0, len(whole) - 1
        while fits < tried:
            middle = (fits + tried + 1) // 2
            text.set_text(shortened(whole, middle))
            if text.get_window_extent().width <= room:
                fits = middle
            else:
                tried = middle - 1
        text.set_text(shortened(whole, fits))
    text.set_rotation(rotation)


def shortened(text: str, length: int) -> str:
    """Return a text with so many of its letters at most, half of them from its end.

    An ellipsis stands for those between.
    """
    if length >= len(text):
        return text
    return f"{text[: length - length // 2]}…{text[len(text) - length // 2 :]}"
