"""Audit of a folder: detections grouped by where their evidence lies → a table, and one page."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from audiointerp.dataset.channels import MID
from audiointerp.device import resolve_device
from audiointerp.model.classifier import Classifier
from audiointerp.model.weights import load
from audiointerp.report.audit_groups import Groups
from audiointerp.report.audit_page import audit_page
from audiointerp.report.media import Form, check_form
from audiointerp.runs.audit import audit_folder
from audiointerp.runs.detections import BASE, MASK, METHOD, Auditor
from audiointerp.runs.windows import Windowing
from audiointerp.spreadsheet import to_csv
from audiointerp.storage import check_writable, claim, write_atomically

PAGE = "audit.html"
"""Name of the page in the folder of an audit."""
SHOWN = 3
"""Detections of each group that the page shows and plays."""


class Audit(Groups):
    """The detections in the recordings of a folder; see `audit`."""

    def save(
        self,
        page: str | os.PathLike[str],
        *,
        shown: int = SHOWN,
        sound: Form = "auto",
    ) -> list[Path]:
        """Write the page, and the tables beside it.

        The detections that the page plays are explained once more, from their files.

        Parameters
        ----------
        page : path
            ``NAME.html``; ``NAME.csv`` beside it is `table`, ``NAME_groups.csv`` is `groups`.
        shown : int
            Detections of each of the 12 most suspicious groups to show, the most suspicious ones.
        sound : {"auto", "wav", "mp3"}
            See `audiointerp.report.write_report`.

        Returns
        -------
        list of Path
            The files, the page first.

        Raises
        ------
        ValueError
            If there is no detection, or an option is unusable; nothing is written.
        OSError
            If the files cannot be written.
        """
        check_form(sound)
        if isinstance(shown, bool) or not isinstance(shown, int) or shown < 0:
            raise ValueError(
                f"shown is {shown!r}: expected how many detections of a group, 0 or more"
            )
        if not self.found.detections:
            raise ValueError(self.no_detection)
        page = Path(page)
        if page.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"{page}: the name of the page must end in .html")
        files = [page, page.with_suffix(".csv"), page.with_name(f"{page.stem}_groups.csv")]
        for file in files:
            check_writable(file)
        with claim(*files):
            content = audit_page(self, shown, sound, files[1].name)
            page.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(files[1], to_csv(self.table, index=False))
            write_atomically(files[2], to_csv(self.groups))
            write_atomically(page, content)
        return files


def audit(
    folder: str | os.PathLike[str],
    model: Classifier | nn.Module | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    threshold: float = 0.5,
    method: str = METHOD,
    mask: str = MASK,
    base: str = BASE,
    windowing: Windowing | None = None,
    channel: str = MID,
    background: str | os.PathLike[str] = "synthetic",
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
) -> Audit:
    """Find every detection in a folder's recordings, and where its evidence lies.

    Parameters
    ----------
    folder : path
        Sound files at any depth, of any length.
    model : Classifier or path
        The classifier, or its weight file.
    out : path, optional
        Folder in which finished recordings are noted: the same call goes on there after it was
        stopped. By default nothing is written before `Audit.save`.
    threshold : float
        A class is detected where it reaches this probability. Adjacent windows of a recording in
        which it does are one detection, and the best of them is explained.
    method : str
        Attribution method, a name in ``METHODS``.
    mask : str
        What is played as the evidence.
    base : {"quiet", "floor", "minimum"}
        What a removed cell becomes.
    windowing : Windowing, optional
        The part of each file to analyse, and the windows.
    channel, background, seed
        See `audiointerp.runs.files.interpret_files`.
    device : str
        For a weight file.
    overwrite : bool
        Take no notice of what `out` holds.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Audit

    Raises
    ------
    ValueError
        If the folder has no sound file, a setting is unusable, or `out` holds an audit with other
        settings.

    Examples
    --------
    >>> import audiointerp as ai
    >>> found = ai.audit("night", "weights/shortcut_logmel.safetensors")  # doctest: +SKIP
    >>> found.groups  # doctest: +SKIP
    >>> found.save("audit.html")  # doctest: +SKIP
    """
    if isinstance(model, str | os.PathLike):
        model = load(model, device=resolve_device(device))
    if not isinstance(model, Classifier):
        raise TypeError(
            f"model is a {type(model).__name__}: expected a Classifier, as audiointerp.load and "
            "audiointerp.classifier return it, or a weight file"
        )
    auditor = Auditor(
        model,
        threshold=threshold,
        method=method,
        mask=mask,
        base=base,
        windowing=windowing,
        channel=channel,
        background=background,
        seed=seed,
    )
    found = audit_folder(folder, auditor, out, overwrite=overwrite, progress=progress)
    return Audit(Path(folder), auditor, found)
