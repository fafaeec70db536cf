"""Loads two libraries without what they pull in for features that are not used here: 3 MB of an idle daemon.

- paho imports ``urllib.request`` (and with it ``http.client`` and ``email``) to look up proxies when it opens a socket;
  ``agent.mqtt`` hands it a connected one.
- msgspec prefers ``typing_extensions`` (and with it ``inspect`` and ``ast``) and does with ``typing`` as well.

The command line imports this module before any other of ours. Without it everything works the same, and is larger.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

_NOT_WANTED = {"msgspec": "typing_extensions", "paho.mqtt.client": "urllib.request"}


@contextmanager
def _stand_in(name: str) -> Iterator[None]:
    """Put an empty module in the place of ``name`` for a moment; one that is loaded already stays."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]


for _library, _name in _NOT_WANTED.items():
    with _stand_in(_name):
        import_module(_library)
