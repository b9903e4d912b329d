"""Confinement: what a process gives up for good before it touches anything that strangers have sent."""
