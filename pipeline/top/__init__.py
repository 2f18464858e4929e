"""`penstock top`: what a running daemon does, as a table in the terminal."""
