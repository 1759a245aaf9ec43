"""Pure functions on arrays: they jit, vmap and differentiate, and touch no files."""
