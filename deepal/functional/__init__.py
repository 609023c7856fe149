"""The mathematics of active learning: pure functions on tensors, no model, no loader, no device, no file."""
