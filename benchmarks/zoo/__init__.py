"""The bundled candidates: small nets trained on real digits, compressed for both engines, measured, and published.

``python -m benchmarks.zoo`` makes them from nothing (needs ``requirements.txt``); with ``--publish-only`` it publishes
the committed files under ``built/`` and needs neither torch nor a converter. Steps, in order:

``data``, ``train``, ``export``, ``quantize``, ``evaluate``, ``table``, ``publish``

``catalog`` lists what is made; ``build`` goes through the steps up to ``evaluate`` and writes the manifests. Importing
this package loads none of the heavy tools.
"""
