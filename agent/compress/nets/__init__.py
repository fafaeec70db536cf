"""What needs torch: networks, training, and the techniques' work on modules. Loaded by steps only."""
