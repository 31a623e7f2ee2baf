"""Class names from lists, mappings and files."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from networks import NAMES, Network, wrap

from audiointerp.model.classes import read_classes


@pytest.mark.parametrize(
    "classes",
    [
        ["rain", "dog", "cat"],
        ("rain", "dog", "cat"),
        np.array(["rain", "dog", "cat"]),
        {0: "rain", 1: "dog", 2: "cat"},
        {2: "cat", 0: "rain", 1: "dog"},
        {"2": "cat", "10": "x", "0": "rain", "1": "dog"},
        {np.int64(1): "dog", np.int64(0): "rain", np.int64(2): "cat"},
    ],
)
def test_names_come_from_lists_and_mappings(classes):
    if "10" in classes:
        with pytest.raises(ValueError, match=r"indices \[0, 1, 2, 10\] …: expected 0 to 3"):
            read_classes(classes)
        return
    assert read_classes(classes) == NAMES
    assert wrap(Network(), classes=classes).classes == NAMES


FILES = {
    "names.txt": "rain\ndog\n\ncat\n",
    "names.csv": "display_name\nrain\ndog\ncat\n",
    "audioset.csv": 'index,mid,display_name\n1,/m/1,dog\n0,/m/0,rain\n2,/m/2,"cat"\n',
    "names.tsv": "id\tname\n7\train\n8\tdog\n9\tcat\n",
    "label.CSV": "label,note\nrain,a\ndog,b\ncat,c\n",
    "names.json": '["rain", "dog", "cat"]',
    "id2label.json": '{"1": "dog", "0": "rain", "2": "cat"}',
    "marked.txt": "\ufeffrain\ndog\ncat",
}


@pytest.mark.parametrize("name", FILES)
def test_names_come_from_files(tmp_path, name):
    path = tmp_path / name
    path.write_text(FILES[name], encoding="utf-8")
    assert read_classes(path) == NAMES
    assert wrap(Network(), classes=str(path)).classes == NAMES


def test_names_with_commas_and_line_breaks_are_kept(tmp_path):
    path = tmp_path / "names.csv"
    names = ["Speech, male", "two\nlines", 'a "quoted" one']
    pd.DataFrame({"display_name": names}).to_csv(path, index=False)
    assert read_classes(path) == tuple(names)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("empty.txt", "\n", "there are no class names"),
        ("twice.txt", "dog\ncat\ndog\n", "two classes have the same name: dog"),
        ("other.csv", "a,b\n1,2\n", r"has the columns 'a', 'b'; expected one of display_name"),
        ("short.csv", "index,name\n0,rain\n1\n", "line 3: has 1 cells, the first line 2"),
        ("blank.csv", "name,x\n ,1\n", "line 2, column 'name': is empty"),
        ("twice.csv", "index,name\n0,rain\n0,dog\n", "an index is there twice"),
        ("hole.csv", "index,name\n0,rain\n2,dog\n", r"indices \[0, 2\] …: expected 0 to 1"),
        ("broken.json", '["rain"', r"broken\.json: is not JSON"),
        ("text.json", '"rain"', "holds str, expected a list of class names or a mapping"),
        ("label2id.json", '{"rain": 0}', r"map 'rain' to 0: .* is this label2id"),
        ("numbers.json", "[1, 2]", "class names must be text, got 1"),
    ],
)
def test_files_without_names_are_refused(tmp_path, name, content, match):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=match):
        read_classes(path)


def test_wrong_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dog: no such file of class names; .* as a list"):
        read_classes("dog")
    (tmp_path / "latin.txt").write_bytes("geräusch".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt: line 1 is not text in UTF-8.*iconv"):
        read_classes(tmp_path / "latin.txt")
    with pytest.raises(ValueError, match="is this label2id"):
        read_classes({"rain": 0, "dog": 1})
    with pytest.raises(ValueError, match="is this label2id"):
        read_classes({0.5: "rain"})
