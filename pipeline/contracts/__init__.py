"""The contracts between the core and its plugins: the only room every plugin may enter."""
