"""Training data as endless streams: a batch is a pure function of (seed, step)."""

from empirical.data.noise import NoisyLabels
from empirical.data.registry import DATA_SETS, DataSet, data_set, data_stream
from empirical.data.stream import DataStream

__all__ = ["DATA_SETS", "DataSet", "DataStream", "NoisyLabels", "data_set", "data_stream"]
