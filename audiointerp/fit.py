"""Train a classifier; the public face of `audiointerp.training`."""

from audiointerp.training.checkpoints import best_epoch
from audiointerp.training.epochs import TrainingError
from audiointerp.training.loop import Training, fit

__all__ = ["Training", "TrainingError", "best_epoch", "fit"]
