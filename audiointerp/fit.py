"""Train a classifier; the public face of `audiointerp.training`."""

from audiointerp.training.loop import Training, TrainingError, best_epoch, fit

__all__ = ["Training", "TrainingError", "best_epoch", "fit"]
