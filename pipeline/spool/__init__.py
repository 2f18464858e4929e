"""The spool: what a sink has accepted and the other side does not have yet."""
