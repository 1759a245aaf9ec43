"""Scores with intervals, and reports of them."""
