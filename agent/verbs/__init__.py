"""What each verb of the command line does: one module for each kind of work, each with ``register``."""
