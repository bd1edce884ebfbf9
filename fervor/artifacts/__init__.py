"""Model folders: what they say of themselves, and their files, verified."""
