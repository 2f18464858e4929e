"""Source plugins: see README.md."""
