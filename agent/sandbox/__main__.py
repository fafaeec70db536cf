"""Enters the sandbox with nothing to read but code, and says what is in force: ``python -m agent.sandbox``.

For ``doctor``, which so shows what was tried and not what a version promises. One JSON line: ``Level``'s two fields.
"""

from __future__ import annotations

import json
import sys

from agent.confinement import forbid_new_privileges
from agent.sandbox.entry import enter


def main() -> int:
    """Enter and tell."""
    forbid_new_privileges()
    level = enter(())
    sys.stdout.write(json.dumps(level._asdict()) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
