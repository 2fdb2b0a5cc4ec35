"""Runs plans with NumPy: kernels, executor, data, training."""
