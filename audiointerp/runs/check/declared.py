"""Checks of a classifier's declarations."""

from __future__ import annotations

from audiointerp.runs.check.bench import (
    Bench,
    Finding,
    add_check,
)


@add_check(
    "front end",
    required=True,
    advice="give a front end of audiointerp.processing, or a subclass of FrontEnd",
)
def _front_end(bench: Bench) -> Finding:
    front_end = bench.classifier.front_end
    bins, frames = bench.view.cells.shape[2:]
    fed = "waveform" if front_end.feeds_waveform else "cells"
    return Finding(
        "front end",
        "ok",
        f"{type(front_end).__name__}, {front_end.sample_rate} Hz, {bins}×{frames} cells in "
        f"{front_end.unit}; the network takes the {fed}",
        details={"cells": (bins, frames)},
    )


@add_check(
    "outputs",
    required=True,
    advice="the module must return finite scores (batch, classes) for what the front end makes",
)
def _outputs(bench: Bench) -> Finding:
    logits = bench.logits(bench.view)
    if not logits.isfinite().all():
        return Finding("outputs", "failed", "scores are NaN or infinite", "are the weights loaded?")
    declared = bench.classifier.outputs
    kind = "probabilities, turned into logits" if declared == "probabilities" else "logits"
    about = f"{kind} of {logits.shape[1]} classes"
    if declared is None:
        return Finding(
            "outputs",
            "missing",
            f"{about}, which is not declared",
            "make the classifier by audiointerp.classifier, or declare outputs='logits'",
        )
    if declared == "probabilities":
        return Finding(
            "outputs",
            "ok",
            about,
            "where probabilities round to 1 there is no gradient: return logits if you can",
        )
    return Finding("outputs", "ok", about)


@add_check("head", required=True, advice="declare head='softmax', 'sigmoid' or 'binary'")
def _head(bench: Bench) -> Finding:
    head = bench.classifier.head
    chances = bench.probabilities(bench.view)
    low, high = float(chances.min()), float(chances.max())
    if not 0 <= low <= high <= 1 + 1e-6:
        return Finding(
            "head",
            "failed",
            f"{head.name}: probabilities run from {low:g} to {high:g}",
            "Head.probabilities must return values in [0, 1]",
        )
    kind = "one class of several" if head.exclusive else "labels that are independent of each other"
    return Finding("head", "ok", f"{head.name}: {kind}")


@add_check("classes", advice="give the class names, in the order of the outputs")
def _classes(bench: Bench) -> Finding:
    names = bench.classifier.classes
    if names is None:
        return Finding(
            "classes",
            "missing",
            "no names: classes are numbers",
            "give classes=…, in the order of the outputs",
        )
    count = bench.logits(bench.view[:1]).shape[1]
    bench.classifier.class_names(count)
    shown = ", ".join(names[:5]) + (", …" if count > 5 else "")
    return Finding("classes", "ok", f"{count}: {shown}")


@add_check("duration", advice="declare duration=…, the seconds of sound that the module takes")
def _duration(bench: Bench) -> Finding:
    duration = bench.classifier.duration
    if duration is not None:
        return Finding("duration", "ok", f"{duration:g} s; longer recordings are cut into windows")
    half = bench.classifier.front_end.analyse(bench.clips[:1, :, : bench.clips.shape[-1] // 2])
    bench.logits(half)
    longest = bench.classifier.longest
    if longest is not None:
        found = f"up to {longest:.6g} s; longer recordings are cut into windows of it"
        return Finding("duration", "ok", found)
    return Finding("duration", "ok", "any; a recording is one window")


@add_check("licence", advice="")
def _licence(bench: Bench) -> Finding:
    licence = bench.classifier.licence
    if licence:
        return Finding("licence", "ok", licence)
    return Finding(
        "licence", "missing", "not stated", "give licence=…, to have it named in results"
    )
