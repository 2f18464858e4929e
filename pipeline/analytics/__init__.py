"""What is worked out from the pictures and results of one source: motion, content liveness."""
