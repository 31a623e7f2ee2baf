"""Names in LaTeX: no command of theirs runs, and the document is set with any of them."""

from __future__ import annotations

import re
import shutil
import subprocess

import pandas as pd
import pytest
from test_paper import rows

from audiointerp.tables.cells import Cell, Column, Row
from audiointerp.tables.files import to_latex, write_latex
from audiointerp.tables.paper import make_tables
from audiointerp.tables.table import Table
from audiointerp.tables.tex import escape, file_names
from audiointerp.text import printable

NAMES = [
    r"}\input{/etc/passwd}",
    r"\write18{touch owned}$\foo$",
    "[2em] *50% #1 a_b ~^&",
    "a--b ,, '' `` ?` <<|>>",
    "% a comment\nnew line \x1b[31m\u202e",
    "雨 α é",
]
COMMANDS = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\textasciigrave{}": "`",
    **{f"\\{sign}": sign for sign in "&%$#_{}"},
    **{f"{{{sign}}}": sign for sign in "[]*"},
    "{}": "",
}
"""All that an escaped name may have in it that is no plain character, and what it is set as."""


def set_as(tex: str) -> str:
    """Return what LaTeX shows for a text, which may have no command but the known ones."""
    known = re.compile("|".join(map(re.escape, sorted(COMMANDS, key=len, reverse=True))))
    rest = known.sub("", tex)
    assert not re.search(r"[\\{}$&#^_~%\[\]*\n]", rest), rest
    assert not re.search("--|,,|''|``|[?!]`", tex)  # these are set as one character
    return known.sub(lambda found: COMMANDS[found[0]], tex)


@pytest.mark.parametrize("name", NAMES)
def test_an_escaped_name_is_set_as_it_stands(name):
    assert set_as(escape(name)) == printable(name)


def test_a_row_that_begins_with_a_bracket_or_a_star_is_no_option_of_the_row_before():
    cells = (Cell(0.5, 0.4, 0.6, 2),)
    rows_ = tuple(Row("", name, cells) for name in ("a", "[2em]", "*"))
    tex = to_latex(Table("accuracy", "caption", ("model",), (Column("FF"),), rows_))
    assert not re.search(r"\\\\\s*[\[*]", tex)


def test_planes_have_files_of_plain_characters_that_no_other_replaces():
    assert file_names(["plane_esc10.v2_a-b+c"], ".pdf") == ["plane_esc10.v2_a-b+c.pdf"]
    files = file_names(["a_b", "A_b", "a b", "a/b", "雨", "雪", "a_b_2", "}" * 300], ".pdf")
    assert files[0] == "a_b.pdf"
    assert len({file.lower() for file in files}) == len(files)
    assert all(re.fullmatch(r"[A-Za-z0-9._+-]{1,250}", file) for file in files)


@pytest.mark.filterwarnings("ignore:no installed font")
def test_the_document_of_hostile_names_compiles(tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex to set the document")
    results = rows("saliency", "bin", {"FF": [0.1, 0.2]})
    frames = [results.assign(model=name, experiment=f"}}{name}") for name in NAMES]
    tables = make_tables(pd.concat(frames), resamples=20)
    files = write_latex(tables, tmp_path / "latex")
    assert all(file.is_file() for file in files)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-shell-escape"]
    run = subprocess.run([*command, "tables.tex"], cwd=tmp_path / "latex", capture_output=True)
    assert run.returncode == 0, run.stdout[-2000:].decode(errors="replace")
    assert not (tmp_path / "latex" / "owned").exists()
    log = (tmp_path / "latex" / "tables.log").read_text(encoding="utf-8", errors="replace")
    assert "/etc/passwd" not in log
