"""What a page holds, taken out of it again."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image


def read_data(page: Path) -> dict:
    """Return the data of a page's script."""
    found = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL
    )
    assert len(found) == 1
    return json.loads(found[0])


def decode(uri: str, kind: str) -> bytes:
    """Return what a data URI of a media type holds."""
    start = f"data:{kind};base64,"
    assert uri.startswith(start)
    return base64.b64decode(uri.removeprefix(start), validate=True)


def picture(uri: str) -> np.ndarray:
    """Return the cells of an embedded picture, the lowest bin first."""
    return np.asarray(Image.open(io.BytesIO(decode(uri, "image/png"))))[::-1]
