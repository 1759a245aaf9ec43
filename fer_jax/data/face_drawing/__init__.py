"""Drawn faces: parameters of a face, where its features lie, and how they are painted."""
