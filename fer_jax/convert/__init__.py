"""Foreign checkpoints in and out, without torch: readers, name tables, completeness checks."""
