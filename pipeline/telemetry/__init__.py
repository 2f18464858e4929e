"""Everything that can happen, counted and logged in one place."""
