"""Threads, queues and the ledger: the way of a frame."""
