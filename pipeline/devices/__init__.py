"""CUDA devices: the driver, one object for each GPU, memory and copies. Imports contracts only, and nothing heavy."""
