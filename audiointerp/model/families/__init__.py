"""Classifiers of other packages, each wrapped by one function."""

from audiointerp.model.families.batdetect import from_batdetect2

__all__ = ["from_batdetect2"]
