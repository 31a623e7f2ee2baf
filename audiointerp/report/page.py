"""Fill a page template; the page is self-contained.

A page's content security policy lets the browser run the script and the style that are in it, show
pictures and play sounds that are in it, and reach nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources
from string import Template
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from audiointerp.evaluation import METRICS
from audiointerp.interpretation import METHODS, is_reference
from audiointerp.tables import SAME
from audiointerp.text import printable

PLACES = {"features": "masked features", "audio": "masked sounds"}
"""What metrics are measured on, as a page calls it."""

Kind = Literal["saved", "runs"]


def fill_page(kind: Kind, title: str, data: dict[str, Any]) -> str:
    """Return a page.

    Parameters
    ----------
    kind : {"saved", "runs"}
        Its body and script, in ``templates/``; the frame, the style, the viewer and the table are
        the same for both. Saved interpretations may have a timeline.
    title : str
        What it is of.
    data : dict
        For its script, ready for JSON.
    """
    style = _template("page.css")
    parts = ("viewer", "timeline") if kind == "saved" else ("viewer",)
    script = "".join(_template(f"{name}.js") for name in ("common", *parts, kind))
    policy = (
        "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    heading = html.escape(printable(f"{title}: what the model listened to"))
    included = {name: _template(f"{name}.html") for name in ("clip", *parts)}
    body = Template(_template(f"{kind}.html")).substitute(included, title=heading)
    # Inside a script element only these could end it or open another.
    data = data | {"references": [name for name in METHODS if is_reference(name)]}
    plain = json.dumps(_printable(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        plain = plain.replace(sign, f"\\u{ord(sign):04x}")
    content = Template(_template("scripted.html")).substitute(body=body, script=script, data=plain)
    return _in_frame(heading, policy, style, content)


def fill_plain_page(title: str, body: str, style: str, *, sounds: bool = False) -> str:
    """Return a page without a script.

    Parameters
    ----------
    title : str
        What it is of.
    body : str
        HTML.
    style : str
        That the body needs beside the style of all pages.
    sounds : bool
        Whether the body has players.
    """
    style = _template("page.css") + style
    media = "media-src data:; " if sounds else ""
    policy = (
        f"default-src 'none'; img-src data:; {media}base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'"
    )
    heading = html.escape(printable(title))
    content = Template(_template("plain.html")).substitute(title=heading, body=body)
    return _in_frame(heading, policy, style, content)


def describe_metric(name: str) -> dict[str, Any]:
    """Return what a page says of a metric, and how it shows and compares its values."""
    metric = METRICS[name]
    return {
        "name": name,
        "about": metric.about,
        "better": "higher" if metric.better > 0 else "lower",
        "digits": metric.clip_decimals,
        "mean_digits": metric.decimals,
        "same": SAME * metric.scale,
    }


def numbers(values: NDArray) -> list:
    """Return numbers as JSON has them: null for NaN."""
    missing = np.isnan(values)
    return (np.where(missing, None, values) if missing.any() else values).tolist()


def _printable(data: Any) -> Any:
    """Return data without control characters in its texts, which are names and what is shown."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, dict):
        return {printable(name): _printable(value) for name, value in data.items()}
    return [_printable(each) for each in data] if isinstance(data, (list, tuple)) else data


def _in_frame(title: str, policy: str, style: str, body: str) -> str:
    """Return the page around its body; the title is HTML already."""
    return Template(_template("frame.html")).substitute(
        title=title, policy=policy, style=style, body=body
    )


def _template(name: str) -> str:
    return (resources.files("audiointerp.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
