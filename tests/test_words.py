"""Names in pictures: drawn as they are written, with the letters that installed fonts have."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from audiointerp.plots import (
    Picture,
    plot_attributions,
    plot_comparison,
    plot_confusion,
    plot_interpretation,
    plot_learning_curves,
    plot_masks,
    plot_plane,
    plot_probabilities,
    plot_recording,
    plot_spectrogram,
    plot_spectrograms,
)
from audiointerp.plots.words import as_written, label_ticks, spell
from audiointerp.processing import LogMelSTFTSpectrogram
from audiointerp.text import printable

FORMULA, CONTROLS, HIDDEN = r"$\foo{$ 5% a_b^", "\x1b[2Ja\nb\u202ec", "_hidden $x$"
NAMES = (FORMULA, CONTROLS, HIDDEN)
LONG = "begin " + "middle " * 60 + "end"
RARE = "\U0010fffd"
"""A letter for private use, which no font has unless somebody put it there."""
FAMILY = "A family of the tests"

PROCESSOR = LogMelSTFTSpectrogram()
CELLS = torch.linspace(-80, 0, PROCESSOR.num_bins * 20).reshape(PROCESSOR.num_bins, 20)
SHARES = torch.rand(PROCESSOR.num_bins, 20, generator=torch.Generator().manual_seed(0))
WINDOWS = [(0.0, 1.0), (1.0, 2.0)]
EACH = dict.fromkeys(NAMES, CELLS)
CHANCES = pd.DataFrame(np.full((3, 3), 0.5), pd.Index(NAMES), NAMES)
PLANE = pd.DataFrame(
    {
        "method": NAMES,
        "mask": NAMES,
        "fidelity": [0.2, 0.5, 0.8],
        "simplicity": [0.8, 0.5, 0.2],
        "front": True,
    }
)

PICTURES: dict[str, Callable[[str], Picture]] = {
    "spectrogram": lambda heading: plot_spectrogram(CELLS, PROCESSOR, title=heading),
    "spectrograms": lambda heading: plot_spectrograms(EACH, PROCESSOR, heading=heading),
    "interpretation": lambda heading: plot_interpretation(
        CELLS,
        CELLS,
        SHARES,
        CELLS,
        CELLS,
        PROCESSOR,
        titles=dict(zip(("attribution", "mask", "masked_in"), NAMES, strict=True)),
        heading=heading,
    ),
    "masks": lambda heading: plot_masks(dict.fromkeys(NAMES, SHARES), PROCESSOR, heading=heading),
    "comparison": lambda heading: plot_comparison(
        CELLS,
        EACH,
        dict.fromkeys(NAMES, EACH),
        PROCESSOR,
        captions={FORMULA: {HIDDEN: "p($x$) = 1"}},
        heading=heading,
    ),
    "attributions": lambda heading: plot_attributions(CELLS, EACH, PROCESSOR, heading=heading),
    "probabilities": lambda heading: plot_probabilities(CHANCES, heading=heading),
    "plane": lambda heading: plot_plane(PLANE, heading=heading),
    "recording": lambda heading: plot_recording(
        dict.fromkeys(NAMES, np.array([0.2, 0.8])),
        WINDOWS,
        WINDOWS[:1],
        CELLS.numpy(),
        CELLS.numpy(),
        PROCESSOR,
        map_title=FORMULA,
        heading=heading,
    ),
    "confusion": lambda heading: plot_confusion(
        pd.DataFrame(np.eye(3, dtype=int), NAMES, NAMES), heading=heading
    ),
    "learning curves": lambda _: plot_learning_curves(
        pd.DataFrame({"epoch": [1, 2], "$x$_loss": [1.0, 2.0]}), best_epoch=2
    ),
}


def texts(figure: Figure) -> list[Text]:
    """Return the texts of a figure after it was drawn, which makes the labels of its axes."""
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("name", PICTURES)
def test_names_are_drawn_as_they_are_written(name):
    picture = PICTURES[name](f"{FORMULA} {LONG}")
    shown = texts(picture)
    formulas = [text for text in shown if "$" in text.get_text()]
    assert formulas
    assert not any(text.get_parse_math() for text in formulas)
    whole = "\n".join(text.get_text() for text in shown)
    assert "\x1b" not in whole
    assert "\u202e" not in whole
    if name != "learning curves":
        (heading,) = (text for text in shown if text.get_text().endswith("end"))
        # Of a long one, the middle is left out.
        assert "…" in heading.get_text()
        assert heading.get_text().startswith(FORMULA[:7])
        box = heading.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= picture.bbox.x1


@pytest.mark.parametrize("name", ["recording", "plane"])
def test_a_name_that_begins_with_an_underscore_is_in_the_legend(name):
    legends = [axes.get_legend() for axes in PICTURES[name]("").axes]
    entries = [text.get_text() for legend in legends if legend for text in legend.get_texts()]
    assert HIDDEN in entries or entries[-1].startswith("_")
    assert len(entries) == len(NAMES) + (name == "plane")


def test_no_name_is_handed_to_tex():
    with matplotlib.rc_context({"text.usetex": True}):
        picture = Picture(figsize=(4, 3))
        axes = picture.add_subplot()
        title = as_written(axes.set_title(FORMULA))
        label_ticks(axes.xaxis, [0, 1], ["50 %", "a_b"])
    assert not title.get_usetex()
    assert not any(text.get_usetex() for text in axes.get_xticklabels())


def test_control_characters_become_their_codes_and_letters_of_every_script_stay():
    assert printable("a\x1b[31m\x00\x9b\r\n\tb") == r"a\x1b[31m\x00\x9b\r\n\tb"
    assert printable("\u202eabc\u2069\u200f\u2028") == r"\u202eabc\u2069\u200f\u2028"
    assert printable("\udcff") == r"\udcff"
    for name in ("雨天", "नमस्ते", "كلب", "a\u200db", "\xa0", "🐕", "Köln"):
        assert printable(name) == name


@pytest.fixture
def rare_font(tmp_path) -> Iterator[str]:
    """Install a font that has a full square for the rare letter."""
    pen = TTGlyphPen(None)
    for corner, move in zip(
        [(0, 0), (0, 1000), (1000, 1000), (1000, 0)], [pen.moveTo, *[pen.lineTo] * 3], strict=True
    ):
        move(corner)
    pen.closePath()
    square = pen.glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "square"])
    font.setupCharacterMap({ord(RARE): "square"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": square})
    font.setupHorizontalMetrics({".notdef": (500, 0), "square": (1000, 0)})
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": FAMILY, "styleName": "Regular"})
    font.setupOS2(usWeightClass=400)
    font.setupPost()
    path = tmp_path / "rare.ttf"
    font.save(path)
    before = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(path)
    yield FAMILY
    font_manager.fontManager.ttflist[:] = before


def test_letters_that_the_usual_font_lacks_come_from_another(rare_font):
    assert spell(f"a{RARE}").families[-1] == rare_font
    assert spell("a é α").families == spell("a").families
    figure = Figure(figsize=(2, 1), dpi=100)
    as_written(figure.text(0.2, 0.2, RARE, fontsize=36))
    for form in ("png", "pdf", "svg"):
        for kind in (3, 42):
            with matplotlib.rc_context({"pdf.fonttype": kind}):
                figure.savefig(drawn := io.BytesIO(), format=form)
    figure.savefig(drawn := io.BytesIO(), format="png")
    dark = matplotlib.image.imread(io.BytesIO(drawn.getvalue()))[..., 0] < 0.5
    assert dark.sum() == pytest.approx(50 * 50, rel=0.05)  # 36 points at 100 dpi


def test_letters_that_no_font_has_are_their_codes_and_a_warning_says_what_to_install():
    figure = Figure()
    with pytest.warns(UserWarning, match=r"no installed font has the letters.*Noto Sans") as caught:
        text = as_written(figure.text(0, 0, f"rain {RARE} {RARE}"))
    assert len(caught) == 1
    assert text.get_text() == r"rain \U0010fffd \U0010fffd"
    figure.savefig(io.BytesIO(), format="pdf")  # without the warnings of matplotlib


def test_letters_shrink_before_any_is_left_out():
    figure = Figure(figsize=(4, 2))
    name = "integrated_gradients"
    small = as_written(figure.text(0, 0, name, fontsize=8), inches=0.8, smallest=5)
    assert small.get_text() == name
    assert 5 <= small.get_fontsize() < 8
    assert small.get_window_extent().width <= 0.8 * figure.dpi
    short = as_written(figure.text(0, 0, "rise", fontsize=8), inches=0.8, smallest=5)
    assert short.get_fontsize() == 8
    long = as_written(figure.text(0, 0, 3 * name, fontsize=8), inches=0.8, smallest=5)
    assert long.get_fontsize() == 5
    assert "…" in long.get_text()


def test_a_name_that_fits_is_whole_though_an_ellipsis_is_wider_than_a_letter():
    figure = Figure(figsize=(4, 2))
    for name in ("ablationcam", "illicit", "fullgrad"):
        width = figure.text(0, 0, name, fontsize=8).get_window_extent().width / figure.dpi
        inches = 1.1 * width  # some of the room is kept in reserve
        assert as_written(figure.text(0, 0, name, fontsize=8), inches=inches).get_text() == name
