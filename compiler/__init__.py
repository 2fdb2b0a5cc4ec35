"""From text to a checked program, its graphs, its plan and its ONNX file. pipeline.py is the table of contents."""
