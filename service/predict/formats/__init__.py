"""Formats: bodies become arrays, a table of readers; outputs become predictions, and these bytes of an answer."""
