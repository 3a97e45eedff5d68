"""Show why the scores of a test are as they are: scores per class, confusions, thresholds, the worst images."""
