"""`penstock quantize`: a model's 8-bit twin, calibrated on the user's own pictures, and what it costs and wins."""
