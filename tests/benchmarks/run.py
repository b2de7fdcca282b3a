"""Prints every benchmark table: `make bench`. Ratios are what to read; seconds are those of one machine on one day."""

from __future__ import annotations

import os

# one thread and one core for everybody, set before the libraries load; flags alone do not hold XLA to one
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import subprocess
import sys
from pathlib import Path

import flows
import startup
import theory_numeric
from common import environment


def in_its_own_process(script: str, *options: str) -> str:
    """The table of a script that takes every core."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *options]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


print("# Benchmarks\n")
print(environment() + "\n")
print("## Start-up\n\n" + startup.table() + "\n")
print("## Numeric boundaries, a million points\n\n" + theory_numeric.table() + "\n")
print("## Flows\n\n" + flows.table() + "\n")
print("## Phase portraits of the toy\n\n" + in_its_own_process("portrait.py"))
print("## Ensemble of MLPs\n\n" + in_its_own_process("ensemble.py"))
print("### A step, part by part\n\n" + in_its_own_process("tiles.py"))
print("### A step, layer by layer\n\n" + in_its_own_process("layers.py"))
print("## Hessian spectra\n\n" + in_its_own_process("hessian.py"))
print("## Ensemble of CNNs\n\n" + in_its_own_process("cnn.py"))
print("## Every architecture against a plain loop\n\n" + in_its_own_process("architectures.py"))
