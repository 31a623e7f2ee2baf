"""Interpreters that are trained for one classifier: decoders of its activations, with weight files.

`base` has what they share, `files` their weight files; training is `audiointerp.training`'s.
"""
