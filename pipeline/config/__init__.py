"""pipeline.toml and PENSTOCK_* variables, turned into frozen, checked models."""
