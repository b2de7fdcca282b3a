"""Prints every benchmark table: `make bench`. Ratios are what to read; seconds are those of one machine on one day."""

from __future__ import annotations

import os

# one thread and one core for everybody, set before the libraries load; flags alone do not hold XLA to one
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import ensemble
import startup
import theory_numeric
from common import environment

print("# Benchmarks\n")
print(environment() + "\n")
print("## Start-up\n\n" + startup.table() + "\n")
print("## Numeric boundaries, a million points\n\n" + theory_numeric.table() + "\n")
print("## Ensemble of MLPs\n\n" + ensemble.table())
