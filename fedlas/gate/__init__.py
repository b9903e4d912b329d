"""The gate: the one test on test rows that decides the verdict."""
