"""JSON Schemas (2020-12) and the AsyncAPI 3 document, generated from the one table of messages. Pure.

The schemas describe what a device sends: fields without a default and the header are required, unknown fields are
allowed, so that a consumer keeps working when a newer device adds one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agent.core.command import VERBS, Command
from agent.core.desired import Desired
from agent.core.messages import MAX_PAYLOAD_BYTES, MESSAGES, Definition
from agent.core.operators import OperatorList
from agent.core.payloads import Origin
from agent.core.topics import PARAMETER, ROOT

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PARAMETERS = {
    "fleet": "Name of the fleet, [a-z0-9-].",
    "device": "Name of the device within its fleet, [a-z0-9-]; also its client id.",
    "collector": "Name of a collector, [a-z0-9-].",
    "rollout": "Id of a rollout, [a-z0-9-].",
    "name": "Name of a group of devices, [a-z0-9-].",
    "task": "What the application needs, as the configuration names it.",
    "group": "Which telemetry this is, e.g. board.",
    "class": "The first 16 hex digits of the class fingerprint that the results are of.",
    "id": "Id of the command this job belongs to.",
    "verb": f"What to do: {', '.join(VERBS)}.",
}


#: What is signed and travels inside another document: in an envelope, or in the registry.
SIGNED: dict[str, type[msgspec.Struct]] = {"command": Command, "desired-state": Desired, "operators": OperatorList}


def signed_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a document of ``SIGNED``; a command's and a desired state's know no other fields."""
    return {"$schema": DIALECT, "$id": f"{ROOT}/{schema_file(name)}", **msgspec.json.schema(SIGNED[name])}


def message_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of one message's payload, self-contained."""
    definition = MESSAGES[kind]
    (reference,), components = msgspec.json.schema_components([definition.payload], ref_template="#/$defs/{name}")
    top = components.pop(reference["$ref"].rpartition("/")[2])
    if issubclass(definition.payload, Origin):
        always = [*Origin.__struct_fields__, "schema"]
        top["required"] = sorted({*top["required"], *always})
    return {
        "$schema": DIALECT,
        "$id": f"{ROOT}/{schema_file(kind)}",
        **top,
        **({"$defs": components} if components else {}),
    }


def schema_file(kind: str) -> str:
    """Return the file name of a message's schema."""
    return f"{kind}.schema.json"


def asyncapi_document(version: str) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document. Args: version: the agent's."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for row in MESSAGES.values():
        for name, address in _addresses(row).items():
            channels[name] = _channel(row, address)
            if row.aside:
                continue
            operations[f"{'receive' if row.inbound else 'send'}{name[0].upper()}{name[1:]}"] = _operation(row, name)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "boardfit device messages",
            "version": version,
            "description": (
                "What a boardfit device publishes and listens to; operations are seen from the device. MQTT 5 by "
                "default, 3.1.1 on request: nothing essential sits in MQTT 5 properties alone. "
                "A channel without an operation is between operators' machines. "
                f"No payload is longer than {MAX_PAYLOAD_BYTES} bytes. A PUBACK is not a delivery receipt."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "{host}:{port}",
                "protocol": "mqtt",
                "protocolVersion": "5",
                "variables": {"host": {"default": "localhost"}, "port": {"default": "8883"}},
                "bindings": {"mqtt": {"cleanSession": True, "keepAlive": 60, "lastWill": _last_will()}},
            }
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": {row.kind: _message(row) for row in MESSAGES.values()}},
    }


def _addresses(row: Definition) -> dict[str, str]:
    own = f"{ROOT}/{{fleet}}/{{device}}/{row.kind}"
    if row.kind in PARAMETER:
        own += f"/{{{PARAMETER[row.kind]}}}"
    if row.kind == "collector":
        return {"collector": f"{ROOT}/{{fleet}}/_collector/{{collector}}/status"}
    if row.kind == "rollout":
        return {"rollout": f"{ROOT}/{{fleet}}/_rollout/{{rollout}}"}
    if row.kind not in ("cmd", "desired"):
        return {row.kind: own}
    end = own.removeprefix(f"{ROOT}/{{fleet}}/{{device}}/")
    return {
        row.kind: own,
        f"{row.kind}All": f"{ROOT}/{{fleet}}/_all/{end}",
        f"{row.kind}Group": f"{ROOT}/{{fleet}}/_group/{{name}}/{end}",
    }


def _channel(row: Definition, address: str) -> dict[str, Any]:
    named = [level[1:-1] for level in address.split("/") if level.startswith("{")]
    return {
        "address": address,
        "summary": row.summary,
        "messages": {row.kind: {"$ref": f"#/components/messages/{row.kind}"}},
        "parameters": {name: {"description": _PARAMETERS[name]} for name in named},
    }


def _operation(row: Definition, channel: str) -> dict[str, Any]:
    return {
        "action": "receive" if row.inbound else "send",
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": row.summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{row.kind}"}],
        "bindings": {"mqtt": {"qos": row.qos, "retain": row.retain}},
    }


def _message(row: Definition) -> dict[str, Any]:
    return {
        "name": row.kind,
        "summary": row.summary,
        "contentType": "application/json",
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": schema_file(row.kind)},
        },
    }


def _last_will() -> dict[str, Any]:
    return {
        "topic": f"{ROOT}/{{fleet}}/{{device}}/status",
        "qos": 1,
        "retain": True,
        "message": "a status whose state is offline",
    }
