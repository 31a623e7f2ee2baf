"""Train a classifier: augmentation, the loop, the recipe, the model card."""
