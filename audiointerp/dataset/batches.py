"""Clips of a set in batches, read beside the work on those before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm.auto import tqdm

from audiointerp.dataset.audio import AudioError
from audiointerp.dataset.base import Clip, ClipDataset
from audiointerp.text import printable


def read_ahead(
    dataset: ClipDataset, indices: Sequence[int], size: int, failures: dict[str, str]
) -> Iterator[list[Clip]]:
    """Yield clips in batches, reading the next batch meanwhile.

    Parameters
    ----------
    dataset : ClipDataset
    indices : sequence of int
        Which of its clips, in this order.
    size : int
        Clips of a batch; fewer where some cannot be read.
    failures : dict of str to str
        Receives the clips that cannot be read, and why.

    Yields
    ------
    list of Clip
        Never empty.
    """

    def read(chunk: Sequence[int]) -> list[Clip]:
        clips = []
        for index in chunk:
            try:
                clips.append(dataset[index])
            except AudioError as error:
                failures[dataset.clip_ids[index]] = str(error)
                tqdm.write(printable(f"skipped {dataset.clip_ids[index]}: {error}"))
        return clips

    chunks = [indices[start : start + size] for start in range(0, len(indices), size)]
    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting = reader.submit(read, chunks[0]) if chunks else None
        for following in [*chunks[1:], None]:
            if waiting is None:
                return
            clips = waiting.result()
            waiting = reader.submit(read, following) if following is not None else None
            if clips:
                yield clips
