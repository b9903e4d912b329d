"""Servers as they are given to serve; every module here runs in an interpreter of its own and imports no other."""
