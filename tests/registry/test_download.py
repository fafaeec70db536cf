"""Downloads over a real server that cuts, lies and changes its mind."""

from __future__ import annotations

import pytest

from agent.core.ports import ProgressEvent
from agent.errors import ConfigError, DownloadError, Interrupted, StorageError, TrustError
from agent.registry.cache import Cache
from agent.registry.download import download
from agent.registry.http_transport import HttpTransport, Limits
from agent.registry.transport import FileTransport, open_transport

DATA = bytes(range(256)) * 4096  # 1 MiB
PATH = "blob.bin"


@pytest.fixture
def ref(author):
    return author.add_blob(PATH, DATA)


@pytest.fixture
def client(make_client, served, ref):
    client = make_client(served.url)
    client.refresh()
    return client


@pytest.fixture
def part(tmp_path, ref):
    return tmp_path / "cache" / "parts" / ref.sha256


def file_of(author, ref):
    return author.directory / "targets" / "_test" / f"{ref.sha256}.{PATH}"


def cut_after(count: int):
    """Announce everything, send ``count`` bytes of what was asked for, and hang up."""

    def answer(handler) -> bool:
        header = handler.headers.get("Range")
        start = int(header.removeprefix("bytes=").rstrip("-")) if header else 0
        handler.send_response(206 if header else 200)
        if header:
            handler.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        handler.send_header("Content-Length", str(len(DATA) - start))
        handler.send_header("ETag", '"fixed"')
        handler.end_headers()
        handler.wfile.write(DATA[start : start + count])
        handler.close_connection = True
        return True

    return answer


def send(status: int, body: bytes, **headers: str):
    def answer(handler) -> bool:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True
        return True

    return answer


def refuse(handler) -> bool:
    handler.send_error(503)
    return True


def test_a_file_comes_whole_and_is_not_fetched_twice(client, ref, served):
    path = client.fetch(ref)
    assert path.read_bytes() == DATA
    assert client.fetch(ref) == path
    assert served.faults.ranges(PATH) == [None]


def test_progress_runs_to_the_signed_length(client, ref):
    events: list[ProgressEvent] = []
    client.fetch(ref, progress=events.append)
    done = [event.done for event in events]
    assert done == sorted(done)
    assert (done[0], done[-1], events[-1].total, events[-1].unit) == (0, len(DATA), len(DATA), "bytes")


def test_a_cut_is_resumed_where_it_was(client, ref, served):
    served.faults.on(PATH, cut_after(300_000), cut_after(200_000), lambda _: False)
    assert client.fetch(ref).read_bytes() == DATA
    # The last answer comes from the real server, whose ETag is another: it sends everything again.
    assert served.faults.ranges(PATH) == [None, "bytes=300000-", "bytes=500000-"]


def test_a_part_survives_until_the_next_call(client, make_client, ref, served, part):
    served.faults.on(PATH, cut_after(300_000), refuse)
    with pytest.raises(DownloadError):
        client.fetch(ref)
    assert part.read_bytes() == DATA[:300_000]
    served.faults.on(PATH, cut_after(len(DATA)))
    again = make_client(served.url)
    again.refresh()
    assert again.fetch(ref).read_bytes() == DATA
    assert served.faults.ranges(PATH)[-1] == "bytes=300000-"
    assert not list(part.parent.iterdir())


def test_a_stop_keeps_what_came(client, ref, part):
    seen: list[float] = []
    with pytest.raises(Interrupted):
        client.fetch(ref, progress=lambda event: seen.append(event.done), stop=lambda: len(seen) > 2)
    assert part.stat().st_size == seen[-1]
    assert client.fetch(ref).read_bytes() == DATA


def test_a_server_that_ignores_ranges_starts_over(client, ref, served, part):
    part.write_bytes(DATA[:1000])
    served.faults.on(PATH, send(200, DATA))
    assert client.fetch(ref).read_bytes() == DATA


def test_a_damaged_part_is_fetched_once_more_from_zero(client, ref, served, part):
    part.write_bytes(b"\0" * 1000)
    assert client.fetch(ref).read_bytes() == DATA
    assert served.faults.ranges(PATH) == ["bytes=1000-", None]


def test_a_damaged_whole_part_is_fetched_again(client, ref, part):
    part.write_bytes(b"\0" * len(DATA))
    assert client.fetch(ref).read_bytes() == DATA


def test_a_part_longer_than_signed_or_not_a_plain_file_is_dropped(client, ref, part, tmp_path):
    part.write_bytes(DATA + b"x")
    assert client.fetch(ref).read_bytes() == DATA
    client._cache.remove(ref.sha256)
    secret = tmp_path / "secret"
    secret.write_bytes(b"keep")
    part.symlink_to(secret)
    assert client.fetch(ref).read_bytes() == DATA
    assert secret.read_bytes() == b"keep"


def test_a_file_changed_between_the_parts_starts_from_zero(client, ref, served, part, author):
    served.faults.on(PATH, cut_after(300_000), refuse)
    with pytest.raises(DownloadError):
        client.fetch(ref)
    served.faults.on(PATH, lambda _: False)
    # The real server's ETag differs from the one the part began with: If-Range makes it send the whole file.
    assert client.fetch(ref).read_bytes() == DATA
    assert served.faults.ranges(PATH)[-1] == "bytes=300000-"


def test_another_range_than_asked_starts_from_zero(client, ref, served, part):
    """A server that answers ranges wrongly must not keep a board from its file for good."""
    part.write_bytes(DATA[:1000])
    wrong = send(206, DATA[500:], Content_Range=f"bytes 500-{len(DATA) - 1}/{len(DATA)}")
    served.faults.on(PATH, lambda handler: "Range" in handler.headers and wrong(handler))
    assert client.fetch(ref).read_bytes() == DATA
    assert served.faults.ranges(PATH) == ["bytes=1000-", None]


def test_a_range_that_was_not_asked_for_is_refused(client, ref, served):
    served.faults.on(PATH, send(206, DATA[500:], Content_Range=f"bytes 500-{len(DATA) - 1}/{len(DATA)}"))
    with pytest.raises(DownloadError, match="answered 206"):
        client.fetch(ref)


def test_an_unsatisfiable_range_starts_from_zero(client, ref, served, part):
    part.write_bytes(DATA[:1000])
    served.faults.on(PATH, send(416, b""), lambda _: False)
    assert client.fetch(ref).read_bytes() == DATA


@pytest.mark.parametrize("body", [DATA[:-1], DATA + b"x"])
def test_another_length_than_signed_is_refused_before_the_body(client, ref, served, body, part):
    served.faults.on(PATH, send(200, body))
    with pytest.raises(TrustError, match="are signed"):
        client.fetch(ref)
    assert not part.exists()


def test_more_bytes_than_signed_without_a_length_are_refused(client, ref, served, part):
    def endless(handler) -> bool:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(DATA + DATA)
        handler.close_connection = True
        return True

    served.faults.on(PATH, endless)
    with pytest.raises(TrustError, match="more than"):
        client.fetch(ref)
    assert not part.exists()


def test_a_body_that_ends_early_without_a_length_is_a_download_error(client, ref, served):
    def short(handler) -> bool:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(DATA[:1000])
        handler.close_connection = True
        return True

    served.faults.on(PATH, short)
    with pytest.raises(DownloadError, match="1000 of"):
        client.fetch(ref)


def test_tampered_bytes_are_refused_and_removed(client, ref, served, author, part):
    file_of(author, ref).write_bytes(DATA[:-1] + b"\0")
    with pytest.raises(TrustError, match="not the signed ones"):
        client.fetch(ref)
    assert len(served.faults.ranges(PATH)) == 1
    assert not part.exists()
    assert client._cache.blobs() == ()


def test_a_missing_file_is_a_download_error(client, ref, author):
    file_of(author, ref).unlink()
    with pytest.raises(DownloadError) as caught:
        client.fetch(ref)
    assert caught.value.facts["status"] == 404


@pytest.mark.parametrize("status", [301, 302, 307])
def test_redirects_are_not_followed(client, ref, served, status):
    served.faults.on(PATH, send(status, b"", Location=f"{served.url}/root.json"))
    with pytest.raises(DownloadError, match="redirect"):
        client.fetch(ref)


def test_a_redirect_of_metadata_is_not_followed_either(make_client, served):
    served.faults.on("timestamp.json", send(302, b"", Location="/root.json"))
    with pytest.raises(DownloadError, match="redirect"):
        make_client(served.url).refresh()


def test_compressed_answers_are_refused(client, ref, served):
    served.faults.on(PATH, send(200, DATA, Content_Encoding="gzip"))
    with pytest.raises(DownloadError, match="compressed"):
        client.fetch(ref)


def test_a_trickle_is_given_up_by_the_clock_it_is_given(served, ref):
    """The rate is judged on our clock: each look at it is ten seconds later."""
    times = iter(range(0, 100_000, 10))
    transport = HttpTransport(
        served.url, limits=Limits(rate_bytes_per_s=10_000_000), monotonic_s=lambda: float(next(times))
    )
    with (
        pytest.raises(DownloadError, match="bytes/s"),
        transport.open_range(f"targets/_test/{ref.sha256}.{PATH}") as stream,
    ):
        for _ in stream:
            pass


def test_a_request_has_a_total_limit(served, ref):
    times = iter(range(0, 100_000, 10))
    transport = HttpTransport(
        served.url, limits=Limits(rate_bytes_per_s=0, total_s=15), monotonic_s=lambda: float(next(times))
    )
    with (
        pytest.raises(DownloadError, match="longer than"),
        transport.open_range(f"targets/_test/{ref.sha256}.{PATH}") as stream,
    ):
        for _ in stream:
            pass


def begin_anew(count: int):
    """Send the first bytes of the whole file, whatever was asked for, a little more each time."""
    sent = [count]

    def answer(handler) -> bool:
        sent[0] += 1
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        handler.wfile.write(DATA[: sent[0]])
        handler.close_connection = True
        return True

    return answer


def test_a_server_that_begins_anew_each_time_is_left_for_later(client, ref, served, part):
    served.faults.on(PATH, begin_anew(len(DATA) * 3 // 4))
    with pytest.raises(DownloadError, match="anew each time"):
        client.fetch(ref)
    assert len(served.faults.ranges(PATH)) == 4, "four times three quarters, and a byte"
    assert 0 < part.stat().st_size < len(DATA)


def test_a_download_has_a_total_limit_over_all_attempts(served, ref, tmp_path, part):
    times = iter(range(0, 1_000_000, 3600))
    served.faults.on(PATH, cut_after(100_000))
    with pytest.raises(DownloadError, match="longer than 21600 s"):
        download(HttpTransport(served.url), ref, Cache(tmp_path / "cache", reserve_bytes=0),
                 monotonic_s=lambda: float(next(times)))  # fmt: skip
    assert 0 < part.stat().st_size < len(DATA)


def test_a_server_that_trickles_is_not_asked_again_at_once(served, ref, tmp_path, part):
    times = iter(range(0, 1_000_000, 10))
    transport = HttpTransport(
        served.url, limits=Limits(rate_bytes_per_s=10_000_000), monotonic_s=lambda: float(next(times))
    )
    with pytest.raises(DownloadError, match="bytes/s"):
        download(transport, ref, Cache(tmp_path / "cache", reserve_bytes=0))
    assert len(served.faults.ranges(PATH)) == 1
    assert part.stat().st_size > 0


@pytest.mark.parametrize("over", ["http", "file"])
def test_no_more_is_read_than_one_byte_beyond_what_is_signed(served, ref, author, over):
    transport = HttpTransport(served.url) if over == "http" else FileTransport(author.directory)
    for offset in (0, 100_000, len(DATA) - 1):
        path = f"targets/_test/{ref.sha256}.{PATH}"
        with transport.open_range(path, offset, length=len(DATA) - 5) as stream:
            assert sum(map(len, stream)) == max(len(DATA) - 5 - offset, 0) + 1


def test_silence_is_given_up(served):
    import threading

    release = threading.Event()

    def silent(handler) -> bool:
        release.wait(20)
        handler.close_connection = True
        return True

    served.faults.on("timestamp.json", silent)
    transport = HttpTransport(served.url, limits=Limits(read_s=0.05))
    with pytest.raises(DownloadError, match="timed out"):
        transport.open_range("metadata/timestamp.json")
    release.set()


def test_headers_that_trickle_are_given_up(served):
    import threading

    release = threading.Event()

    def trickle(handler) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not release.wait(0.02):
            try:
                handler.wfile.write(b"a")
            except OSError:
                break
        handler.close_connection = True
        return True

    served.faults.on("timestamp.json", trickle)
    transport = HttpTransport(served.url, limits=Limits(read_s=10, headers_s=0.2))
    with pytest.raises(DownloadError):
        transport.open_range("metadata/timestamp.json")
    release.set()


def test_stat_says_length_and_etag(served, ref, author):
    path = f"targets/_test/{ref.sha256}.{PATH}"
    over_http = HttpTransport(served.url).stat(path)
    assert over_http.length == len(DATA)
    assert over_http == FileTransport(author.directory).stat(path)
    with pytest.raises(DownloadError):
        HttpTransport(served.url).stat("metadata/none.json")


@pytest.mark.parametrize("url", ["ftp://x/y", "http://", "http://user:pw@host/", "https://host/#x", "file://rel/path"])
def test_addresses_of_other_kinds_are_refused(url):
    with pytest.raises(ConfigError):
        open_transport(url)


def test_a_file_address_and_a_path_are_the_same_registry(make_client, author):
    assert make_client(f"file://{author.directory}").refresh().candidates == 2
    assert make_client(str(author.directory)).refresh().candidates == 2


def test_a_file_registry_is_resumed_too(make_client, ref, part):
    client = make_client()
    client.refresh()
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(DATA[:70_000])
    assert client.fetch(ref).read_bytes() == DATA


def test_no_room_is_said_before_a_byte_is_fetched(make_client, served, ref, tmp_path):
    class Full:
        f_frsize = 4096
        f_bavail = 10

    cache = Cache(tmp_path / "full", reserve_bytes=0, disk_space=lambda _: Full())
    client = make_client(served.url, cache=cache)
    client.refresh()
    with pytest.raises(StorageError) as caught:
        client.fetch(ref)
    assert caught.value.facts["missing_bytes"] == len(DATA) - 40960
    assert served.faults.ranges(PATH) == []
