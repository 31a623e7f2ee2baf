"""One clip's work, and the same over files and over sets: what `audiointerp.predict` rests on."""
