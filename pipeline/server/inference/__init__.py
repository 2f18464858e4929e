"""The models, offered to clients of other inference servers in their own protocols."""
