"""One thread for every library: tests share two cores, and threads that wait for each other stall all of them."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
