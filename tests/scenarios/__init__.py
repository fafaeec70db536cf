"""Whole passes with real processes, real files, real signatures and a real broker; none of our own code is mocked."""
