"""ONNX files in smaller numbers."""
