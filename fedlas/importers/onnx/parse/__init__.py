"""Parsing: bytes become a checked model."""
