"""An application, its agent and what disturbs them, beside the same without an agent; see ``__main__``."""
