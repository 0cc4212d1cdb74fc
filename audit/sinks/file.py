"""A file of lines that its own writer rotates."""
