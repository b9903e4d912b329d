"""Training: what of a graph is a classifier, its features and its weights, and the network of it."""
