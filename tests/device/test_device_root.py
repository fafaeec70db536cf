"""The root tells absent, denied and broken apart, and never hangs or leaves its tree."""

from __future__ import annotations

import ast
import errno
import os
from pathlib import Path
from typing import Any

import pytest

import agent.device
from agent.device.root import SysRoot, classify, state_of
from agent.errors import SensorUnavailableError


def state(root: SysRoot, rel: str) -> tuple[str, object]:
    with pytest.raises(SensorUnavailableError) as caught:
        root.read_text(rel)
    return state_of(caught.value), caught.value.facts["errno"]


def test_text_is_stripped_of_nul_and_whitespace(tree: Any) -> None:
    root = tree({"proc/device-tree/model": "Board 9\0", "a": " 12 \n"})
    assert root.read_text("proc/device-tree/model") == "Board 9"
    assert (root.read_int("a"), root.try_int("none")) == (12, None)


def test_absent_denied_and_broken(tree: Any) -> None:
    root = tree({"x": "1", "y": "1", "z": "1"}, {"x": errno.EACCES, "y": errno.EINVAL, "z": errno.EAGAIN})
    assert state(root, "none") == ("absent", errno.ENOENT)
    assert state(root, "x") == ("denied", errno.EACCES)
    assert state(root, "y") == ("broken", errno.EINVAL)
    assert state(root, "z") == ("broken", errno.EAGAIN)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENODEV, "absent"),
        (errno.ENXIO, "absent"),
        (errno.EPERM, "denied"),
        (errno.ENODATA, "broken"),
        (errno.EIO, "broken"),
        (errno.EOPNOTSUPP, "broken"),
    ],
)
def test_classification(number: int, expected: str) -> None:
    assert classify(OSError(number, "")) == expected


def test_a_real_eagain_is_broken_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "temp")
    writer = os.open(tmp_path / "temp", os.O_RDWR)  # an open writer with nothing written: reads answer EAGAIN
    try:
        assert state(SysRoot(tmp_path), "temp") == ("broken", errno.EAGAIN)
    finally:
        os.close(writer)


def test_a_folder_in_place_of_a_file_is_broken(tmp_path: Path) -> None:
    (tmp_path / "temp").mkdir()
    assert state(SysRoot(tmp_path), "temp") == ("broken", errno.EISDIR)


def test_a_text_that_is_no_number_is_broken(tree: Any) -> None:
    with pytest.raises(SensorUnavailableError, match="not a number") as caught:
        tree({"a": "<unknown>"}).read_int("a")
    assert state_of(caught.value) == "broken"


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a/../../b"])
def test_names_stay_below_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not relative"):
        SysRoot(tmp_path).read_text(name)


def test_glob_is_natural_in_order_and_passes_dangling_links_over(tree: Any, tmp_path: Path) -> None:
    root = tree({"z/zone10/temp": "1", "z/zone2/temp": "1", "z/other": "1"})
    (tmp_path / "z/zone3").mkdir()
    (tmp_path / "z/zone3/temp").symlink_to(tmp_path / "gone")
    assert root.glob("z/zone*/temp") == ("z/zone2/temp", "z/zone10/temp")
    assert root.list_dir("nowhere") == ()


def test_device_tree_in_either_place(tree: Any) -> None:
    root = tree({"sys/firmware/devicetree/base/compatible": "a,b\0c,d\0"})
    assert root.device_tree("compatible") == ("a,b", "c,d")
    assert root.device_tree("model") == ()


def test_write_is_refused_quietly_where_there_is_no_file(tree: Any) -> None:
    root = tree({"proc/7/clear_refs": ""})
    assert root.write_text("proc/7/clear_refs", "5") is True
    assert root.write_text("proc/8/clear_refs", "5") is False


def test_no_absolute_path_outside_of_root() -> None:
    folder = Path(agent.device.__file__).parent
    found: list[str] = []
    for path in sorted(folder.glob("*.py")):
        module = ast.parse(path.read_text())
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(module)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        found += [
            f"{path.name}: {node.value}"
            for node in ast.walk(module)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
            and node.value.startswith(("/proc", "/sys", "/etc"))
        ]
    assert found == []
