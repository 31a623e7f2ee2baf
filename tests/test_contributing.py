"""The example of CONTRIBUTING.md is a method as the package's own are."""

from __future__ import annotations

import re
import textwrap

import pytest
import torch
from repository import REPOSITORY
from torch import nn

from audiointerp.interpretation import METHODS

PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def registry():
    every = dict(METHODS)
    yield METHODS
    METHODS.clear()
    METHODS.update(every)


def test_the_example_runs_and_gives_the_squared_gradient(registry):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(textwrap.dedent(code), "my_method.py", "exec"), {"__name__": "my_method"})
    linear = nn.Linear(12, 3).double()
    cells = torch.randn(2, 1, 3, 4, dtype=torch.float64)
    method = registry["gradient_energy"](nn.Sequential(nn.Flatten(), linear))
    found = method.attribute(cells, torch.tensor([2, 0]))
    expected = linear.weight[[2, 0]].detach().square().view(2, 1, 3, 4)
    torch.testing.assert_close(found, expected)
    assert re.search(rf"-k {method.name}\b", PAGE)


def test_the_files_that_it_names_are_there():
    for name in re.findall(r"`((?:audiointerp|tests|benchmarks)/[\w/.]+)`", PAGE):
        assert name.endswith("my_method.py") or (REPOSITORY / name).exists(), name
    for name in re.findall(r"\]\((?!http)([^)#]+)", PAGE):
        assert (REPOSITORY / name).exists(), name
