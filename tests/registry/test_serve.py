"""The small server: ranges, and nothing outside of the published folders."""

from __future__ import annotations

import http.client
import socket

import pytest

from agent.errors import ConfigError
from agent.registry.serve import open_server


def get(served, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", served.server.server_address[1], timeout=10)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body, dict(response.headers)


def test_ranges_are_sent_as_asked(served, author):
    data = (author.directory / "root.json").read_bytes()
    status, body, headers = get(served, "/root.json", Range="bytes=10-19")
    assert (status, body) == (206, data[10:20])
    assert headers["Content-Range"] == f"bytes 10-19/{len(data)}"
    assert get(served, "/root.json", Range="bytes=10-")[1] == data[10:]
    assert get(served, "/root.json", Range=f"bytes=0-{len(data) + 5}")[:2] == (200, data)
    assert get(served, "/root.json", Range=f"bytes={len(data)}-")[0] == 416
    assert get(served, "/root.json", Range="bytes=-5")[0] == 200


def test_if_range_sends_all_when_the_file_is_another(served, author):
    data = (author.directory / "root.json").read_bytes()
    etag = get(served, "/root.json")[2]["ETag"]
    assert get(served, "/root.json", Range="bytes=10-", If_Range=etag)[0] == 206
    assert get(served, "/root.json", Range="bytes=10-", If_Range='"other"')[:2] == (200, data)


@pytest.mark.parametrize(
    "path",
    [
        "/../keys/root.pem",
        "/metadata/../../keys/root.pem",
        "/metadata/%2e%2e/%2e%2e/keys/root.pem",
        "/targets/..%2f..%2fkeys/root.pem",
        "//etc/passwd",
        "/targets//etc/passwd",
        "/metadata/",
        "/",
        "/.git/config",
        "/metadata/%00",
        "/targets/link",
    ],
)
def test_nothing_else_is_served(served, author, path):
    (author.directory / "targets" / "link").symlink_to(author.keys / "root.pem")
    (author.directory / ".git").mkdir()
    (author.directory / ".git" / "config").write_text("secret")
    status, body, _ = get(served, path)
    assert status == 404
    assert b"PRIVATE" not in body


def test_an_address_in_use_is_a_configuration_error(author):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="bound"), open_server(author.directory, port=taken.getsockname()[1]):
            pass


def test_a_missing_folder_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError), open_server(tmp_path / "none"):
        pass
