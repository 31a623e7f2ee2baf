"""Make names and messages safe to display."""

from __future__ import annotations

import unicodedata

_INVISIBLE = frozenset(["Cc", "Cs", "Zl", "Zp"])
"""Categories of control characters, surrogates, and separators of lines and paragraphs."""
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of what follows, or end such a change."""


def printable(text: str) -> str:
    r"""Return a text with the codes of all characters that control what shows it.

    File, class and model names come from other people. In them, an escape sequence can rewrite the
    lines of a terminal, a change of direction can make one name look like another, and half of a
    surrogate pair, which stands for a byte that is no UTF-8, cannot be encoded. These characters
    become their codes as Python writes them. All others, of every script, stay.

    Parameters
    ----------
    text : str
        One line: a newline in it becomes ``\n`` as well.

    Examples
    --------
    >>> printable("dog\x1b[2J 雨")
    'dog\\x1b[2J 雨'
    """
    if text.isprintable():
        return text
    return "".join(_code(sign) if _controls(sign) else sign for sign in text)


def _controls(sign: str) -> bool:
    return sign in _DIRECTIONS or unicodedata.category(sign) in _INVISIBLE


def _code(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
