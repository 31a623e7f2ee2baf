"""Prefetch batches of a set's clips in a thread, or read all clips once to check them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm.auto import tqdm

from audiointerp.dataset.base import Clip, ClipDataset
from audiointerp.dataset.decode import AudioError
from audiointerp.dataset.failures import Failures

_READERS = 4


def read_ahead(
    dataset: ClipDataset, indices: Sequence[int], size: int, failures: Failures
) -> Iterator[list[Clip]]:
    """Yield clips in batches, reading the next batch meanwhile.

    Parameters
    ----------
    dataset : ClipDataset
    indices : sequence of int
        Which of its clips, in this order.
    size : int
        Clips of a batch; fewer where some cannot be read.
    failures : Failures
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
                failures.succeed()
            except Exception as error:
                failures.add(dataset.clip_ids[index], error)
        return clips

    chunks = [indices[start : start + size] for start in range(0, len(indices), size)]
    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting = reader.submit(read, chunks[0]) if chunks else None
        for following in [*chunks[1:], None]:
            if waiting is None:
                break
            clips = waiting.result()
            waiting = reader.submit(read, following) if following is not None else None
            if clips:
                yield clips
    failures.finish()


def check_clips(sets: Mapping[str, ClipDataset], *, progress: bool = False) -> None:
    """Read every clip of some sets once, to know before a long work that all can be read.

    Several files are decoded at a time. What was read stays in the sets' memory or cache.

    Parameters
    ----------
    sets : mapping of str to ClipDataset
        By what a message calls them, such as "training".
    progress : bool
        Show a progress bar.

    Raises
    ------
    AudioError
        If clips cannot be read; the message names all of them.
    """
    clips = [(name, place) for name, dataset in sets.items() for place in range(len(dataset))]
    failures = Failures(quiet=True)

    def read(clip: tuple[str, int]) -> Exception | None:
        name, place = clip
        try:
            sets[name][place]
        except Exception as error:
            return error
        return None

    with (
        ThreadPoolExecutor(_READERS) as readers,
        tqdm(total=len(clips), desc="reading", unit="clip", disable=not progress) as bar,
    ):
        try:
            for (name, place), error in zip(clips, readers.map(read, clips), strict=True):
                if error is None:
                    failures.succeed()
                else:
                    failures.add(f"{sets[name].clip_ids[place]} ({name})", error)
                bar.update()
        except BaseException:
            readers.shutdown(cancel_futures=True)
            raise
    failures.finish()
    if failures.reasons:
        listed = "".join(f"\n  {clip}: {why}" for clip, why in failures.reasons.items())
        raise AudioError(
            f"{len(failures.reasons)} of {len(clips)} clips cannot be read:{listed}\nRepair these "
            "files, or take them out of the set: remove the file, or its row of the set's table"
        )
