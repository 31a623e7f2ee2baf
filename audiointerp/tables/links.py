"""Add bookmarks and links to a PDF written by matplotlib, which supports neither.

A PDF may be extended at its end: new versions of some objects, and a table of where they are. So
the file stays as it was, and what is added is small. Adobe, "PDF Reference", 1.4: 3.4.5 (updates),
8.2.2 (bookmarks), 8.4.5 (links).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from audiointerp.storage import write_atomically
from audiointerp.text import printable


class Bookmark(NamedTuple):
    """A line of the list that a reader shows beside the pages.

    ``page`` counts from 1; ``level`` is 0, or 1 for a line below the last one of level 0.
    """

    title: str
    page: int
    level: int = 0


class Link(NamedTuple):
    """A place that leads to another page when clicked.

    ``box`` is left, bottom, right and top in points from the lower left corner of ``page``; pages
    count from 1.
    """

    page: int
    box: tuple[float, float, float, float]
    to: int


def add_navigation(
    path: str | os.PathLike[str], bookmarks: Sequence[Bookmark], links: Sequence[Link]
) -> None:
    """Add bookmarks and links to a PDF, in place.

    Parameters
    ----------
    path : path
        As ``matplotlib.backends.backend_pdf.PdfPages`` wrote it.
    bookmarks : sequence of Bookmark
        In order, the first of level 0.
    links : sequence of Link

    Raises
    ------
    ValueError
        If the file is no such PDF, or a page is not in it.
    """
    path = Path(path)
    pdf = _Pdf(path.read_bytes(), name=str(path))
    for page in {mark.page for mark in bookmarks} | {n for link in links for n in link[::2]}:
        if not 1 <= page <= len(pdf.pages):
            raise ValueError(f"page {page}: {path} has the pages 1 to {len(pdf.pages)}")
    if bookmarks:
        _add_bookmarks(pdf, bookmarks)
    for page, group in groupby(sorted(links), key=lambda link: link.page):
        _add_links(pdf, page, list(group))
    write_atomically(path, pdf.updated())


class _Pdf:
    """The objects of a file, and new versions of them."""

    def __init__(self, data: bytes, *, name: str) -> None:
        self._data = data
        try:
            self._end = int(re.findall(rb"startxref\s+(\d+)\s+%%EOF\s*$", data)[0])
            self._trailer = re.search(rb"trailer\s*<<(.*?)>>", data[self._end :], re.DOTALL)[1]
            self._size = int(re.search(rb"/Size (\d+)", self._trailer)[1])
            self.root = int(re.search(rb"/Root (\d+) 0 R", self._trailer)[1])
            self._places = self._read_places()
            tree = int(re.search(rb"/Pages (\d+) 0 R", self.read(self.root))[1])
            kids = re.search(rb"/Kids \[(.*?)\]", self.read(tree), re.DOTALL)[1]
            self.pages = [int(number) for number in re.findall(rb"(\d+) 0 R", kids)]
        except (IndexError, TypeError, KeyError) as error:
            raise ValueError(f"{name}: no PDF as matplotlib writes them") from error
        self._new: dict[int, bytes] = {}

    def _read_places(self) -> dict[int, int]:
        """Return where in the file each object begins."""
        table = self._data[self._end :]
        first, count = map(int, re.match(rb"xref\s+(\d+) (\d+)\s", table).groups())
        entries = re.findall(rb"(\d{10}) \d{5} [fn]", table)[:count]
        return {first + number: int(place) for number, place in enumerate(entries)}

    def read(self, number: int) -> bytes:
        """Return an object as it was in the file."""
        body = self._data[self._places[number] :]
        return re.match(rb"\d+ 0 obj\s+(.*?)\s+endobj", body, re.DOTALL)[1]

    def reserve(self, count: int = 1) -> range:
        """Return numbers for new objects."""
        self._size += count
        return range(self._size - count, self._size)

    def write(self, number: int, content: str | bytes) -> None:
        """Set an object, new or known."""
        self._new[number] = content if isinstance(content, bytes) else content.encode("ascii")

    def updated(self) -> bytes:
        """Return the file with the new objects at its end."""
        data, places = bytearray(self._data), {}
        for number, content in sorted(self._new.items()):
            places[number] = len(data)
            data += b"%d 0 obj\n%b\nendobj\n" % (number, content)
        start = len(data)
        # Readers take the first part of a table for one that begins at object 0.
        data += b"xref\n0 1\n0000000000 65535 f \n"
        for number, place in places.items():
            data += b"%d 1\n%010d 00000 n \n" % (number, place)
        trailer = re.sub(rb"/Size \d+", b"/Size %d" % self._size, self._trailer)
        data += b"trailer\n<<%b /Prev %d >>\nstartxref\n%d\n" % (trailer, self._end, start)
        return bytes(data + b"%%EOF\n")


def _add_bookmarks(pdf: _Pdf, bookmarks: Sequence[Bookmark]) -> None:
    if bookmarks[0].level:
        raise ValueError("the first bookmark must be of level 0: there is none above it")
    root = pdf.reserve()[0]
    numbers = pdf.reserve(len(bookmarks))
    above = root
    parents = []
    for number, mark in zip(numbers, bookmarks, strict=True):
        parents.append(above if mark.level else root)
        above = above if mark.level else number
    for number, mark, parent in zip(numbers, bookmarks, parents, strict=True):
        siblings = [n for n, other in zip(numbers, parents, strict=True) if other == parent]
        place = siblings.index(number)
        entry = f"<< /Title {_text(mark.title)} /Parent {parent} 0 R"
        entry += f" /Dest [{pdf.pages[mark.page - 1]} 0 R /Fit]"
        if place:
            entry += f" /Prev {siblings[place - 1]} 0 R"
        if place + 1 < len(siblings):
            entry += f" /Next {siblings[place + 1]} 0 R"
        below = [n for n, other in zip(numbers, parents, strict=True) if other == number]
        if below:
            # A negative count: folded until the reader opens it.
            entry += f" /First {below[0]} 0 R /Last {below[-1]} 0 R /Count -{len(below)}"
        pdf.write(number, entry + " >>")
    top = [n for n, parent in zip(numbers, parents, strict=True) if parent == root]
    pdf.write(
        root,
        f"<< /Type /Outlines /First {top[0]} 0 R /Last {top[-1]} 0 R /Count {len(top)} >>",
    )
    catalog = pdf.read(pdf.root).rstrip().removesuffix(b">>")
    pdf.write(pdf.root, catalog + b" /Outlines %d 0 R /PageMode /UseOutlines >>" % root)


def _add_links(pdf: _Pdf, page: int, links: Sequence[Link]) -> None:
    """Give a page a new list of what can be clicked on it, the old ones first."""
    known = re.search(rb"/Annots (\d+) 0 R", pdf.read(pdf.pages[page - 1]))
    if known is None:
        raise ValueError(f"page {page} has no list of annotations, as matplotlib writes it")
    number = int(known[1])
    entries = [
        f"<< /Type /Annot /Subtype /Link /Border [0 0 0] /Rect [{_numbers(link.box)}]"
        f" /Dest [{pdf.pages[link.to - 1]} 0 R /Fit] >>"
        for link in links
    ]
    before = pdf.read(number).strip().removesuffix(b"]")
    pdf.write(number, before + "\n".join(["", *entries, "]"]).encode("ascii"))


def _text(text: str) -> str:
    """Return a text string of any letters as PDF writes it."""
    return f"<feff{printable(text).encode('utf-16-be').hex()}>"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)
