"""Training data as endless streams: a batch is a pure function of (seed, step)."""

from empirical.data.noise import NoisyLabels
from empirical.data.stream import DATA_SETS, DataStream, data_stream

__all__ = ["DATA_SETS", "DataStream", "NoisyLabels", "data_stream"]
