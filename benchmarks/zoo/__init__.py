"""The bundled candidates: ``recipe.yaml``, and the registry made of it by ``python -m benchmarks.zoo``.

Leaves how candidates are made to ``agent.compress`` and how they are published to ``agent.registry``.
"""
