"""Foreign checkpoints in: torch-free readers, name tables, completeness checks."""
