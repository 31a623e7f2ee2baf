"""Packages that are not installed with audiointerp, and what to say where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import torch


def needs(module: str, *, package: str, extra: str) -> ModuleType:
    """Import a module of an optional package, leaving process-wide settings as they are.

    Some packages set torch's threads or NumPy's handling of floating-point errors when they are
    imported; what was set before is restored.

    Parameters
    ----------
    module : str
        Dotted name.
    package : str
        As pip knows it.
    extra : str
        The extra of audiointerp that installs it.

    Raises
    ------
    ImportError
        If it is not installed. The message says how to install it.
    """
    threads = torch.get_num_threads()
    try:
        with np.errstate():
            return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{package} is not installed ({error}): pip install 'audiointerp[{extra}]'"
        ) from error
    finally:
        torch.set_num_threads(threads)
