"""Data sets: the layouts that can be read, checks before training, and the embedded data set `shapes`."""
