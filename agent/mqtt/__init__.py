"""A thin adapter over paho-mqtt: one connection, driven by the caller's own loop.

``settings`` says which broker and how; ``dial`` makes the TCP or TLS connection; ``connection`` speaks MQTT over it;
``refusals`` says what a broker's refusal means; ``loop`` drives one connection where there is no other loop.
Nothing of boardfit's topics or payloads is known here.
"""

from agent.mqtt.connection import Connection, random_share
from agent.mqtt.loop import Drivable, drive, turn
from agent.mqtt.settings import BrokerSettings, parse_broker_url
from agent.mqtt.values import Incoming, Publication, Will

__all__ = [
    "BrokerSettings", "Connection", "Drivable", "Incoming", "Publication", "Will", "drive", "parse_broker_url",
    "random_share", "turn",
]  # fmt: skip
