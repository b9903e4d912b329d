"""`fedlas doctor`: what is installed, which devices are really used, what is protected and reachable, and what to do.

Each check runs in a process of its own under a time limit, all at the same time: one that hangs, or that brings its
process down, is a line like the others. Distributions add checks by the entry-point group `fedlas.doctor`.
"""

from fedlas.cli.doctor.examination import CHECKS, examine
from fedlas.cli.doctor.finding import Finding, Status
from fedlas.cli.doctor.run import run

__all__ = ["CHECKS", "Finding", "Status", "examine", "run"]
