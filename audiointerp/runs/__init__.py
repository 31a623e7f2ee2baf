"""Interpretation of one clip, of files and of sets; the basis of `audiointerp.predict`."""
