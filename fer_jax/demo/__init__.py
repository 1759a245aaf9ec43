"""The whole line on drawn faces, in minutes: draw, prepare, convert, train, evaluate, predict."""
