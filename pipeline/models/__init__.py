"""Pure functions between pixels, tensors and detections."""
