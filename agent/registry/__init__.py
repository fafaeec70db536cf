"""Stage 2: which signed candidates exist, and their bytes.

A registry is a TUF repository of static files: ``metadata/`` and content-addressed ``targets/``, on any web server,
CDN, USB stick or folder. On a workstation ``author`` makes and signs it, ``checking`` checks it, ``serve`` serves it
for trying things. On the board ``client`` verifies the metadata with python-tuf from an installed root, and
``download`` brings the bytes into ``cache``. Importing ``agent.registry.client`` loads neither numpy nor a runtime:
models are opened in a confined child only (``child``), when they are published.
"""
