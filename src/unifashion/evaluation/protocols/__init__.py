"""One file per benchmark: which queries, which galleries, which positives."""
