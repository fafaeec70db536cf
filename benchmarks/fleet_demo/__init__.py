"""``make fleet-demo``: a fleet in one command, on this machine alone.

``scene`` starts what a fleet consists of: broker, registry, boards, a real agent, collector and console. ``story`` has
an operator do with it what fleets are for, and says what happens and why. ``telling`` is how that looks. What the story
does, it does by ``boardfit fleet`` as anybody would; what came of it is read from the rollouts' store.
"""
