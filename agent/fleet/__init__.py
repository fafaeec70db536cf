"""The operator's side: what a workstation needs to order boards about. Never imported on a board."""
