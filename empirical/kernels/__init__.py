"""Compiled loops of the ensemble engine: networks so small that a call a layer would cost more than the layer."""
