"""Example programs, shipped with the package for `nnc new`."""
