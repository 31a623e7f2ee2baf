"""Bookmarks and links, read back by another library."""

from __future__ import annotations

import pypdf
import pytest
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from audiointerp.tables.links import Bookmark, Link, add_navigation


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "three.pdf"
    with PdfPages(path) as pdf:
        for number in range(3):
            figure = Figure(figsize=(4, 3))
            figure.text(
                0.5, 0.5, f"page {number + 1}", url="https://example.org" if number else None
            )
            pdf.savefig(figure)
    return path


def numbers_of(pdf) -> dict[int, int]:
    return {page.indirect_reference.idnum: n for n, page in enumerate(pdf.pages, start=1)}


def test_bookmarks_are_nested_and_lead_to_their_pages(path):
    marks = [
        Bookmark("Contents", 1),
        Bookmark("Tabellen: größer → (besser)", 2),
        Bookmark("first\\", 2, level=1),
        Bookmark("second)", 3, level=1),
        Bookmark("End \udcff\x1b", 3),
        Bookmark("last", 1, level=1),
    ]
    add_navigation(path, marks, [])
    pdf = pypdf.PdfReader(path, strict=True)

    def titles(entries):
        return [
            titles(entry)
            if isinstance(entry, list)
            else (entry.title, pdf.get_destination_page_number(entry) + 1)
            for entry in entries
        ]

    assert titles(pdf.outline) == [
        ("Contents", 1),
        ("Tabellen: größer → (besser)", 2),
        [("first\\", 2), ("second)", 3)],
        (r"End \udcff\x1b", 3),
        [("last", 1)],
    ]
    assert pdf.page_mode == "/UseOutlines"


def test_links_lead_to_their_pages_and_those_before_them_stay(path):
    links = [Link(1, (10, 20, 30, 40), 3), Link(1, (50, 20, 70, 40), 2), Link(2, (1, 2, 3, 4), 1)]
    add_navigation(path, [], links)
    pdf = pypdf.PdfReader(path, strict=True)
    numbers = numbers_of(pdf)
    found = []
    for number, page in enumerate(pdf.pages, start=1):
        for entry in page["/Annots"]:
            link = entry.get_object()
            if "/Dest" in link:
                box = tuple(map(float, link["/Rect"]))
                found.append(Link(number, box, numbers[link["/Dest"][0].idnum]))
            else:
                assert link["/A"]["/URI"] == "https://example.org"
    assert found == links
    assert [len(page["/Annots"]) for page in pdf.pages] == [2, 2, 1]


def test_the_pages_stay_as_they_were(path):
    before = path.read_bytes()
    add_navigation(path, [Bookmark("a", 1)], [Link(3, (0, 0, 9, 9), 1)])
    assert path.read_bytes().startswith(before)
    pages = [page.extract_text().strip() for page in pypdf.PdfReader(path).pages]
    assert pages == ["page 1", "page 2", "page 3"]


@pytest.mark.parametrize(
    ("marks", "links", "message"),
    [
        ([Bookmark("a", 4)], [], "page 4: .* has the pages 1 to 3"),
        ([], [Link(1, (0, 0, 1, 1), 0)], "page 0"),
        ([Bookmark("a", 1, level=1)], [], "first bookmark must be of level 0"),
    ],
)
def test_what_cannot_be_is_refused_and_the_file_left_alone(path, marks, links, message):
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        add_navigation(path, marks, links)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"", b"%PDF-1.4\nnothing\n", b"trailer << >> startxref\n0\n%%EOF"]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.pdf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no PDF as matplotlib writes them"):
        add_navigation(path, [Bookmark("a", 1)], [])
