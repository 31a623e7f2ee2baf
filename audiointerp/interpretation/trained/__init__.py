"""Interpreters that are trained for one classifier: decoders of its activations, with weight files.

`base` has what decoders share, `files` their weight files, `interpreter` what the methods share;
training is `audiointerp.training`'s.
"""
