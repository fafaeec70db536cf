"""Stage 5: put one model in place, prove it, and go back by itself; a power cut leaves the old or the new, whole."""
