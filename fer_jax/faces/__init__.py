"""Faces in pictures and videos: finding, aligning and following them; numpy in, numpy out."""
