"""An operator's key from its making to the registry's signed list and out of it again."""

from __future__ import annotations

import os
from pathlib import Path

from tests.scenarios.conftest import Result, run


def test_a_key_is_made_listed_and_revoked(tmp_path: Path) -> None:
    def fleet(*words: str | Path) -> Result:
        return run("fleet", "keys", *words, env={**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": ""})

    models = tmp_path / "models"
    assert run("registry", "init", models).code == 0
    made = fleet("make", "anna", "--json")
    assert made.code == 0, made.err
    private, public = Path(made.document["key"]), Path(made.document["public"])
    assert private == tmp_path / ".config" / "boardfit" / "operator.key"
    assert private.stat().st_mode & 0o777 == 0o600
    assert public.read_text() == f"anna {made.document['public_key']}\n"
    again = fleet("make", "anna")
    assert (again.code, "never overwritten" in again.err) == (2, True)
    added = fleet("add", models, public, "--role", "operator", "--json")
    assert added.code == 0, added.err
    (one,) = fleet("list", models, "--json").document["operators"]
    assert (one["name"], one["role"], one["keyid"]) == ("anna", "operator", made.document["keyid"])
    assert run("registry", "check", models).code == 0
    assert fleet("revoke", models, "bert").code == 2
    assert "Nobody is listed" in fleet("revoke", models, "anna").out
