"""The console: a fleet in a browser, from what the collector has stored. Shows; signs nothing and sends nothing.

``start`` serves it in a thread. ``application`` has the addresses, ``guard`` what every answer must carry, ``watching``
keeps boards fresh and tells browsers what has changed, ``fleet_table``, ``board_page``, ``class_page`` and
``rollout_page`` say what stands on a page, ``desk`` knows who is signed in. ``static`` is the browser's side: plain ES
modules and style sheets, without anything from another host.

Data comes only through ``agent.collector.reading.Reader``.
"""

from agent.web.operators import OperatorsFile, OperatorsOfRegistry, OperatorSource
from agent.web.server import Served, start
from agent.web.settings import ConsoleSettings

__all__ = ["ConsoleSettings", "OperatorSource", "OperatorsFile", "OperatorsOfRegistry", "Served", "start"]
