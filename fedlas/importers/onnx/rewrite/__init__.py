"""Rewrites: a graph takes one form, any number of rows, and standard operators."""
