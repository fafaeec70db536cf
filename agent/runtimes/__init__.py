"""Engines and image preprocessing: numpy, pillow and the runtimes are imported here, in the measuring child only."""
