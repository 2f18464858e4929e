"""Sink plugins: see README.md."""
