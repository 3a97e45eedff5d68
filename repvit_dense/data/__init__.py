"""Data: the embedded data set `shapes`."""
