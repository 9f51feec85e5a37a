"""What is decided about the registry's data, one file a noun, in packages by subject."""
