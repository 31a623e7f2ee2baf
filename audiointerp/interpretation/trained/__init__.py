"""Trained interpreters: decoders of a classifier's activations, with weight files.

`base` has what decoders share, `files` their weight files, `interpreter` what the methods share;
training is `audiointerp.training`'s.
"""
