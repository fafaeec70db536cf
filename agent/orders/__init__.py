"""What a board does about commands: whom it obeys, what waits, what became of each, and the settings asked for.

``desk`` receives, judges and answers; ``jobs`` keeps on disk what was taken; ``outcome`` reads what a verb printed;
``progress`` brings a child's progress to its daemon. The rules of the protocol are in ``agent.core.command`` and
``agent.core.desired``; the daemon runs the children.
"""
