"""From a bundle and pictures to a prediction table."""
