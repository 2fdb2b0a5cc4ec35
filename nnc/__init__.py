"""Describe a neural network in one small file and get a trained, verified, deployable ONNX model out of it."""
