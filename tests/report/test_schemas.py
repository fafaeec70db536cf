"""The committed schemas are the generated ones."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from agent.core.asyncapi import SIGNED
from agent.core.messages import MESSAGES
from agent.report.schemas import differing_files, generated_files, main

SCHEMAS = Path(__file__).parents[2] / "schemas"


def test_the_committed_files_are_the_generated_ones() -> None:
    assert differing_files(SCHEMAS) == ()  # otherwise: python -m agent.report.schemas --write


def test_every_message_has_a_file_and_the_asyncapi_document_is_yaml() -> None:
    files = generated_files()
    assert {f"{kind}.schema.json" for kind in [*MESSAGES, *SIGNED]} | {"asyncapi.yaml"} == set(files)
    assert yaml.safe_load(files["asyncapi.yaml"])["asyncapi"] == "3.0.0"
    assert json.loads(files["status.schema.json"])["title"] == "Status"


def test_writing_makes_a_folder_right_and_comparing_tells(tmp_path, capsys) -> None:
    (tmp_path / "stale.schema.json").write_text("{}")
    assert main([str(tmp_path)]) == 1
    assert "stale.schema.json differs" in capsys.readouterr().err
    assert main([str(tmp_path), "--write"]) == 0
    assert main([str(tmp_path)]) == 0
    (tmp_path / "status.schema.json").write_text("{}")
    assert differing_files(tmp_path) == ("status.schema.json",)
