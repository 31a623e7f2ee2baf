"""Classifiers of other packages, a module for each."""
