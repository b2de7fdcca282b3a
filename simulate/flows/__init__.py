"""The pieces of the gradient flows: time as a function of place, one-output paths, matrix networks, solver runs."""
