"""The HTTP server: metrics, health and status."""
