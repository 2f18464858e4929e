"""The inference protocols of others, as pure codecs: typed requests and responses to bytes and back."""
