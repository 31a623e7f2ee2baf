"""Run networks fast: inference copies, batch sizes, numeric precision, equal masks scored once."""
