"""Real data sets from Debian and Python packages, as arrays split once per seed; it knows no network."""

from benchmarks.data.common import Array, Rows, Split, cache_folder, missing

__all__ = ["Array", "Rows", "Split", "cache_folder", "missing"]
