"""Pure values and rules shared by every stage: no file, socket, process, clock or environment is touched here."""
