"""One thread for every library: tests share two cores, and threads that wait for each other stall all of them."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
# a parallel loop of Numba gives OpenMP its own number of threads, and PyTorch's products then take as many
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

# Hypothesis explores new examples on a desk, and repeats the same ones where a red run must be reproducible
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
