"""Post-hoc interpretation of audio classifiers: see, hear and measure what a model listened to.

The first ten lines::

    import audiointerp as ai
    model, processor = ai.load("weights/esc10_logmel_robust.safetensors")
    predict = ai.Predict(model, processor, ai.GradCAMInterpreter(model))
    result = predict.predict("samples/dog.wav")
    result.label, result.probability
    result.metrics
    result.plot("topK_30")
    result.audio("topK_30")
    result.save("results/dog")

The names are those of `audiointerp.public`, imported when the first one is used: importing the
package loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from audiointerp.version import __version__ as __version__

if TYPE_CHECKING:
    from audiointerp.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Import the public names, and the packages that they are in, when one of them is asked for."""
    if name == "__all__" or not name.startswith("__"):
        public = importlib.import_module("audiointerp.public")
        globals().update({each: getattr(public, each) for each in ("__all__", *public.__all__)})
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
