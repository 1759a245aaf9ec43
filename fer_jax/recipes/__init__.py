"""Several steps as one resumable run."""
