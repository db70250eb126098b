"""Pictures of what decoding does."""
