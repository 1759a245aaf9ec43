"""Records of faces: where they come from, how they are stored, how they are read."""
