"""Checks of sound, network and copies."""

from __future__ import annotations

import copy
import math

import torch

from audiointerp.interpretation.base import evaluating
from audiointerp.runs.check.bench import (
    SOUNDS,
    Bench,
    Finding,
    add_check,
)
from audiointerp.speed.inference import fast_copy
from audiointerp.speed.precision import computing, has_bfloat16
from audiointerp.speed.scoring import Scorer

_SAME_PROBABILITY = 1e-4
_SAME_LOGIT = 1e-3


@add_check(
    "round trip",
    required=True,
    advice="FrontEnd.synthesise must take the view that analyse returns and cells of its shape",
)
def _round_trip(bench: Bench) -> Finding:
    view, front_end = bench.view, bench.classifier.front_end
    with torch.no_grad():
        again = front_end.synthesise(view, view.cells)
    if again.shape == view.waveform.shape and torch.equal(again, view.waveform):
        return Finding("round trip", "ok", "unchanged cells give the waveform bit for bit")
    found = f"shape {tuple(again.shape)} instead of {tuple(view.waveform.shape)}"
    if again.shape == view.waveform.shape:
        found = f"samples differ by up to {float((again - view.waveform).abs().max()):.2g}"
    return Finding(
        "round trip",
        "failed",
        f"unchanged cells do not give the waveform: {found}",
        "synthesise the change only and add it to view.waveform",
    )


@add_check("removal", required=True, advice="FrontEnd.synthesise must take cells at the floor")
def _removal(bench: Bench) -> Finding:
    view, front_end = bench.view, bench.classifier.front_end
    with torch.no_grad():
        left = front_end.synthesise(view, torch.full_like(view.cells, front_end.floor))
    energy = float(left.square().sum() / view.waveform.square().sum())
    level = 10 * math.log10(max(energy, 1e-30))
    if level <= front_end.removal_db:
        return Finding(
            "removal",
            "ok",
            f"cells at the floor leave {level:.0f} dB of the sound",
            details={"level_db": level},
        )
    return Finding(
        "removal",
        "failed",
        f"cells at the floor leave {level:.0f} dB of the sound, expected "
        f"{front_end.removal_db:.0f} or less",
        "is the front end's floor the level of an empty cell?",
        {"level_db": level},
    )


@add_check("determinism", required=True, advice="")
def _determinism(bench: Bench) -> Finding:
    first, second = (bench.probabilities(bench.view) for _ in range(2))
    change = float((first - second).abs().max())
    if change <= _SAME_PROBABILITY:
        return Finding("determinism", "ok", "the same clip has the same probabilities again")
    return Finding(
        "determinism",
        "failed",
        f"probabilities of the same clip differ by up to {change:.2g} from call to call",
        "is a dropout called as a function, or is a state kept between calls?",
        {"change": change},
    )


@add_check("batch", required=True, advice="the module must take one clip as well as several")
def _batch(bench: Bench) -> Finding:
    together = bench.probabilities(bench.view)
    alone = torch.cat([bench.probabilities(bench.view[n : n + 1]) for n in range(len(SOUNDS))])
    change = float((together - alone).abs().max())
    if change <= _SAME_PROBABILITY:
        return Finding("batch", "ok", "a clip alone is the clip in a batch")
    return Finding(
        "batch",
        "failed",
        f"probabilities of a clip differ by up to {change:.2g} with others in its batch",
        "is something computed over the batch, such as statistics of a batch norm without memory?",
        {"change": change},
    )


@add_check("copy", advice="methods run on the module itself")
def _copy(bench: Bench) -> Finding:
    with torch.no_grad():  # in which the copied parameters have no history
        twin = bench.classifier.with_network(copy.deepcopy(bench.classifier.network))
    with evaluating(twin.network), torch.no_grad():
        same = torch.equal(twin.logits(bench.view.cells, bench.view), bench.logits(bench.view))
    if same:
        return Finding("copy", "ok", "a deep copy computes the same")
    return Finding(
        "copy",
        "missing",
        "a deep copy computes something else",
        "does the module keep something outside of its parameters, buffers and attributes?",
    )


@add_check(
    "fast copy", required=True, advice="methods take fold_batch_norm=False, to run without it"
)
def _fast_copy(bench: Bench) -> Finding:
    network = bench.classifier.network
    twin = fast_copy(network)
    if twin is network:
        return Finding("fast copy", "missing", "none can be made: the module itself is run")
    with torch.no_grad():
        logits = bench.classifier.with_network(twin).logits(bench.view.cells, bench.view)
    own = bench.logits(bench.view)
    change = float((logits - own).abs().max() / own.abs().max().clamp(min=1e-6))
    if change <= _SAME_LOGIT:
        found = "the copy made for speed computes the same"
        return Finding("fast copy", "ok", found, details={"change": change})
    return Finding(
        "fast copy",
        "failed",
        f"logits of the copy made for speed differ by {100 * change:.1f} %",
        "give methods fold_batch_norm=False, and tell the authors of audiointerp",
        {"change": change},
    )


@add_check("bfloat16", advice="keep precision='float32'")
def _bfloat16(bench: Bench) -> Finding:
    own = bench.probabilities(bench.view)
    with computing("bfloat16", bench.device):
        rough = Scorer(bench.classifier)(bench.view.cells, bench.view)
    change = float((rough - own).abs().max())
    if not math.isfinite(change):
        return Finding("bfloat16", "missing", "probabilities are NaN", "keep precision='float32'")
    imitated = ""
    if has_bfloat16(bench.device) is False:
        imitated = f"; {bench.device} has no instructions for it, float32 is faster"
    return Finding(
        "bfloat16",
        "ok",
        f"precision='bfloat16' changes probabilities by up to {change:.2g}{imitated}",
        details={"change": change},
    )
