"""Training: the bilevel search of one candidate, and the final training of a discrete network."""
