"""Whether a broker heard of a board what README says that boards publish: ``heard.py HEARD SERVED VERSION...``.

HEARD is what ``mosquitto_sub -v`` wrote, SERVED the candidate that the board said serves, each VERSION one that ran.
Every message must follow the published schema of its topic.
"""

import collections
import json
import sys
from pathlib import Path

import jsonschema

from agent.core.messages import decode, schema_name

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"
EXPECTED = {"status", "profile", "measurement", "decision", "deployment", "reported", "telemetry"}


def main(heard: Path, served: Path, versions: list[str]) -> int:
    """Check all of it and print what was heard. Raises: AssertionError, jsonschema.ValidationError, ReportError."""
    counts: collections.Counter[str] = collections.Counter()
    last: dict[str, dict[str, object]] = {}
    ran: list[object] = []
    for line in heard.read_text(encoding="utf-8").splitlines():
        topic, _, payload = line.partition(" ")
        if payload in ("", "(null)"):
            continue
        kind = schema_name(topic)
        counts[kind] += 1
        decode(topic, payload.encode())
        document = json.loads(payload)
        schema = json.loads((SCHEMAS / f"{kind}.schema.json").read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(schema).validate(document)
        last[kind] = document
        if kind == "status" and document["agent_version"] not in (*ran, None):
            ran.append(document["agent_version"])
    sys.stdout.write(f"{sum(counts.values())} messages, each by its schema: {dict(counts)}; versions {ran}\n")
    missing = EXPECTED - set(counts)
    assert not missing, f"never heard: {sorted(missing)}"
    assert ran == versions, f"versions {versions} ran, heard were {ran}"
    candidate = served.read_text(encoding="utf-8").split()[0]
    assert last["deployment"]["candidate"] == candidate, f"{candidate} served: {last['deployment']}"
    assert last["decision"]["task"] == "digits", last["decision"]
    assert last["status"]["state"] == "offline", f"the board is gone: {last['status']}"
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
