"""What a run will need on TPUs, from the real compiler, before one is rented."""
