"""Hypernetworks: existing networks whose tensors a small network predicts."""
