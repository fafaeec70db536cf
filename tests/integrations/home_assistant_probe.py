"""A real Home Assistant with nothing but its MQTT integration. Run by a Python that has the package homeassistant.

    python home_assistant_probe.py FOLDER BROKER-PORT
    python home_assistant_probe.py --options > recorded/home_assistant.json

The first prints the states of all entities of that integration as one line of JSON each time they change, and logs to
stderr; it ends when its standard input does. The second prints which options Home Assistant's own schemas know, for
machines that have no Home Assistant. The tests beside this file read both.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from pathlib import Path
from typing import Any


def say(document: Any, **how: Any) -> None:
    """Print one document."""
    sys.stdout.write(json.dumps(document, default=str, ensure_ascii=False, **how) + "\n")
    sys.stdout.flush()


async def main(folder: Path, port: int) -> None:
    """Run until the standard input ends."""
    from homeassistant import auth, config_entries, const, loader
    from homeassistant.bootstrap import async_load_base_functionality
    from homeassistant.components.mqtt.discovery import SUPPORTED_COMPONENTS
    from homeassistant.core import HomeAssistant
    from homeassistant.helpers import entity_registry
    from homeassistant.setup import async_setup_component

    assert "sensor" in SUPPORTED_COMPONENTS
    say({"version": const.__version__})
    (folder / "configuration.yaml").write_text("")
    hass = HomeAssistant(str(folder))
    hass.config.skip_pip = True
    loader.async_setup(hass)
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await async_load_base_functionality(hass)
    await hass.config_entries.async_initialize()
    hass.auth = await auth.auth_manager_from_config(hass, [{"type": "homeassistant"}], [])
    assert await async_setup_component(hass, "homeassistant", {})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        page = {"server_host": ["127.0.0.1"], "server_port": free.getsockname()[1]}  # its own page; nobody asks for it
    assert await async_setup_component(hass, "http", {"http": page})
    entry = config_entries.ConfigEntry(
        domain="mqtt", title="broker", data={"broker": "127.0.0.1", "port": port}, options={}, version=1,
        minor_version=2, source="user", unique_id=None, discovery_keys={}, subentries_data=(),
    )  # fmt: skip
    await hass.config_entries.async_add(entry)
    await hass.async_start()

    def told() -> dict[str, Any]:
        known = entity_registry.async_get(hass).entities.values()
        return {
            one.unique_id: {
                "state": state.state, "entity_id": one.entity_id, "attributes": dict(state.attributes),
                "platform": one.platform,
            }
            for one in known
            if (state := hass.states.get(one.entity_id)) is not None
        }  # fmt: skip

    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    last = None
    while not ended.done():
        now = json.dumps(told(), default=str)
        if now != last:
            say(json.loads(now))
        last = now
        await asyncio.wait([ended], timeout=0.1)
    await hass.async_stop(force=True)


def options() -> dict[str, Any]:
    """Return the names that Home Assistant's schemas know."""
    from homeassistant import const
    from homeassistant.components.binary_sensor import BinarySensorDeviceClass
    from homeassistant.components.mqtt import binary_sensor, schemas, sensor
    from homeassistant.components.sensor import DEVICE_CLASS_UNITS, SensorDeviceClass
    from homeassistant.components.sensor.const import DEVICE_CLASS_STATE_CLASSES

    def names(schema: Any) -> list[str]:
        return sorted(str(key) for key in schema)

    availability = schemas._MQTT_AVAILABILITY_LIST_SCHEMA.schema
    (listed,) = [value for key, value in availability.items() if str(key) == "availability"]
    classes = ("temperature", "power", "duration", "energy", "enum")
    return {
        "source": f"package homeassistant {const.__version__}: components/mqtt and components/sensor",
        "document": names(schemas.DEVICE_DISCOVERY_SCHEMA.schema),
        "device": names(schemas.MQTT_ENTITY_DEVICE_INFO_SCHEMA.validators[1].schema),
        "origin": names(schemas.MQTT_ORIGIN_INFO_SCHEMA.validators[0].schema),
        "availability": names(listed.validators[1][0]),
        "sensor": names(sensor._PLATFORM_SCHEMA_BASE.schema),
        "binary_sensor": names(binary_sensor.PLATFORM_SCHEMA_MODERN.schema),
        "sensor_device_classes": names(SensorDeviceClass),
        "binary_sensor_device_classes": names(BinarySensorDeviceClass),
        "sensor_units": {name: names(DEVICE_CLASS_UNITS.get(name, ())) for name in classes},
        "sensor_state_classes": {name: names(DEVICE_CLASS_STATE_CLASSES.get(name, ())) for name in classes},
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["--options"]:
        say(options(), indent=1)
        sys.exit()
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
