"""Escape names for LaTeX, and file names that need no escape."""

from __future__ import annotations

import re
from collections.abc import Iterable

from audiointerp.text import printable

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "–": "--",
    # After the end of a row they would be read as its options.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
} | {character: f"\\{character}" for character in "&%$#_{}"}
_LIGATURES = re.compile(r"(?<=[-',])(?=[-',])")
"""Where two characters would be set as one: two hyphens as a dash, two commas as a quote."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]")
_LATIN = 0x17F
"""The last letter of the blocks that LaTeX has with its own fonts."""
_LETTERS = r"""\usepackage{iftex}
\ifPDFTeX
  %% Letters that its fonts lack are shown as their codes; XeLaTeX and LuaLaTeX show them all.
  \usepackage[utf8]{inputenc}
  \IfFileExists{lmodern.sty}{\usepackage{lmodern}\usepackage[T1]{fontenc}}{}
  \makeatletter
  \newcommand{\showcode}[2]{\@ifundefined{u8:\detokenize{#1}}{\DeclareUnicodeCharacter{#2}{U+#2}}{}}
  \makeatother
%s
\else
  \usepackage{fontspec}
  %% Any font that has the letters of your names.
  \IfFontExistsTF{Noto Sans CJK SC}{\setmainfont{Noto Sans CJK SC}}{}
\fi"""
_WESTERN = r"""\usepackage[utf8]{inputenc}
% With T1 but without Latin Modern, letters would be bitmaps.
\IfFileExists{lmodern.sty}{\usepackage{lmodern}\usepackage[T1]{fontenc}}{}"""


def escape(text: str) -> str:
    """Return text that LaTeX sets as it stands; see `audiointerp.text.printable`."""
    apart = _LIGATURES.sub("\0", printable(text))
    return "".join("{}" if sign == "\0" else _SPECIAL.get(sign, sign) for sign in apart)


def letters_preamble(texts: Iterable[str]) -> str:
    """Return what a document needs in its preamble for the letters of its texts."""
    beyond = sorted({sign for text in texts for sign in text if ord(sign) > _LATIN})
    if not beyond:
        return _WESTERN
    return _LETTERS % "\n".join(f"  \\showcode{{{sign}}}{{{ord(sign):04X}}}" for sign in beyond)


def file_names(names: Iterable[str], ending: str) -> list[str]:
    """Return a file name for each name, of characters that LaTeX and every file system take.

    Others become ``_``. Where two names would be one file, the later has its number at the end.
    """
    taken: set[str] = set()
    files = []
    for number, name in enumerate(names, start=1):
        safe = _UNSAFE.sub("_", name)[:200]
        while safe.lower() in taken:
            safe = f"{safe}_{number}"
        taken.add(safe.lower())
        files.append(safe + ending)
    return files
