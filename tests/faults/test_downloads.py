"""Downloads that are cut at every 64 KiB, and what a server may do when it is asked to go on.

Each case: a server sends so many pieces of a model and breaks off, then does one of the things below; then an honest
server is back. Whatever happens, the cache holds the signed file or none. Extent and seed: tests/faults/extent.py.
"""

from __future__ import annotations

import hashlib
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.manifest import TargetRef
from agent.errors import DownloadError, TrustError
from agent.registry.cache import Cache
from agent.registry.counting import CountedTransport
from agent.registry.download import MAX_ATTEMPTS, MAX_TIMES_LENGTH, download
from agent.registry.http_transport import HttpTransport, Limits
from agent.registry.transport import ByteStream, FileStat
from tests.faults.extent import Extent
from tests.faults.table import show
from tests.faults.web import PIECE, Exchange, Web, serving

CUTS = 128
DATA = random.Random(7).randbytes(CUTS * PIECE)
OTHER = random.Random(8).randbytes(CUTS * PIECE)
REF = TargetRef(path="digits/one/model.onnx", sha256=hashlib.sha256(DATA).hexdigest(), length=len(DATA))
LIMITS = Limits(read_s=5.0, headers_s=5.0, rate_bytes_per_s=10_000.0, rate_window_s=0.05)
Answer = Callable[[Exchange, int], None]  # from this offset on


def asked_from(exchange: Exchange) -> int:
    """Return where the answer has to begin."""
    header = exchange.headers.get("Range")
    return 0 if header is None else int(header.removeprefix("bytes=").rstrip("-"))


def whole(
    exchange: Exchange, start: int = 0, data: bytes = DATA, etag: str | None = '"a"', said: int | None = None
) -> None:
    """Answer as an honest server does. Args: said: where the bytes are said to begin, when it is not so."""
    at = start if said is None else said
    headers = {"ETag": etag} if etag else {}
    condition = exchange.headers.get("If-Range")
    if start and (condition is None or condition == etag):
        exchange.head(206, len(data) - start, Content_Range=f"bytes {at}-{len(data) - 1}/{len(data)}", **headers)
        exchange.body(data[start:])
    else:
        exchange.head(200, len(data), **headers)
        exchange.body(data)


def endless(exchange: Exchange, start: int) -> None:
    """Send what was asked for, without a length, and go on for ever."""
    if start:
        exchange.head(206, None, Content_Range=f"bytes {start}-{len(DATA) - 1}/*", ETag='"a"')
    else:
        exchange.head(200, None, ETag='"a"')
    exchange.body(DATA[start:])
    exchange.endless()


def trickle(exchange: Exchange, start: int) -> None:
    """Send a byte now and then: one each 20 ms, with limits to match. At one per second a case would take minutes."""
    exchange.head(206 if start else 200, len(DATA) - start,
                  **({"Content_Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"} if start else {}))  # fmt: skip
    exchange.trickle(DATA[start:], 0.02)


def elsewhere(exchange: Exchange, _: int) -> None:
    """Point to another address, where the right bytes would be."""
    exchange.head(302, 0, Location="/elsewhere")


def shifted(exchange: Exchange, start: int) -> None:
    """Answer another range than was asked for, and say so."""
    whole(exchange, max(start - PIECE, 1) if start else 0)


def lied(exchange: Exchange, start: int) -> None:
    """Answer another range than was asked for, and say it is the one."""
    whole(exchange, max(start - 1, 1) if start else 0, said=start)


# What the server does after the cut, what it did before it (data and ETag), and how a call of the agent may end.
KINDS: dict[str, tuple[Answer, bytes, str | None, set[str]]] = {
    "Range ok": (whole, DATA, '"a"', {"complete"}),
    "Range ok, no ETag": (lambda x, at: whole(x, at, etag=None), DATA, None, {"complete"}),
    "Range ignored": (lambda x, _: whole(x), DATA, '"a"', {"complete"}),
    "changed file": (lambda x, at: whole(x, at, etag='"b"'), OTHER, '"a"', {"complete"}),
    "changed file, no ETag": (lambda x, at: whole(x, at, etag=None), OTHER, None, {"refused"}),
    "changed for good": (lambda x, at: whole(x, at, OTHER, '"b"'), DATA, '"a"', {"refused"}),
    "wrong range": (shifted, DATA, '"a"', {"complete"}),
    "wrong range, lied about": (lied, DATA, '"a"', {"refused"}),
    "redirect": (elsewhere, DATA, '"a"', {"broken off"}),
    "endless": (endless, DATA, '"a"', {"refused"}),
    "1 byte/s": (trickle, DATA, '"a"', {"broken off"}),
}


class Read:
    """A transport that notes how much was read from each answer."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport
        self.answers: list[list[int]] = []

    def stat(self, path: str) -> FileStat:
        """Ask below."""
        return self._transport.stat(path)

    def open_range(
        self, path: str, offset: int = 0, etag: str | None = None, *, length: int | None = None
    ) -> ByteStream:
        """Open below."""
        stream = self._transport.open_range(path, offset, etag, length=length)
        self.answers.append([stream.offset, 0])
        return Noted(stream, self.answers[-1])


class Noted:
    """One answer. Args: note: its second figure is how many bytes were read."""

    def __init__(self, stream: ByteStream, note: list[int]) -> None:
        self._stream, self._note = stream, note
        self.offset, self.total, self.etag = stream.offset, stream.total, stream.etag

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._note[1] += len(chunk)
            yield chunk

    def __enter__(self) -> ByteStream:
        self._stream.__enter__()
        return self

    def __exit__(self, *what: object) -> None:
        self._stream.__exit__(*what)  # type: ignore[arg-type]


def reset(exchange: Exchange) -> None:
    """End the connection by RST, as a board's link that goes down and a server that crashes do."""
    exchange.wfile.flush()
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.connection.close()


def attempt(web: Web, cache: Cache) -> tuple[str, str, list[str]]:
    """Download once. Returns: how it ended, the sentence, and what was not as it must be."""
    counted: list[int] = []
    read = Read(HttpTransport(web.url, limits=LIMITS))
    web.asked.clear()
    end, said = "complete", ""
    wrong = []
    try:
        if download(CountedTransport(read, counted.append), REF, cache).read_bytes() != DATA:
            wrong.append("the cache holds another file")
    except TrustError as error:
        end, said = "refused", str(error)
        wrong += [] if error.fix else ["it does not say what to do"]
    except DownloadError as error:
        end, said = "broken off", str(error)
        wrong += [] if error.fix else ["it does not say what to do"]
    if sum(counted) != sum(got for _, got in read.answers):
        wrong.append(f"{sum(counted)} bytes were counted, {sum(got for _, got in read.answers)} came")
    if any(start + got > REF.length + 1 for start, got in read.answers):
        wrong.append(f"it read on beyond the end: {read.answers}")
    if sum(counted) > MAX_TIMES_LENGTH * REF.length + PIECE or len(web.asked) > 2 * MAX_ATTEMPTS:
        wrong.append(f"it cost {sum(counted)} bytes in {len(web.asked)} requests")
    if any(path.startswith("/elsewhere") for path, _ in web.asked):
        wrong.append("it followed a redirect")
    return end, said, wrong


def violations(kind: str, cut: int, ending: str, web: Web, folder: Path) -> tuple[str, list[str]]:
    """Cut one download, and let it recover. Returns: how it ended, and what was not as it must be."""
    act, data, etag, allowed = KINDS[kind]
    if cut == 0 or ending == "reset":
        allowed = (allowed if cut else set()) | {"broken off"}  # what was under way is lost, all of it perhaps
    elif cut == CUTS:
        allowed = {"complete"} if data is DATA else {"refused"}
    began: list[int] = []

    def answer(exchange: Exchange) -> None:
        start = asked_from(exchange)
        if began:
            act(exchange, start)
            return
        began.append(start)
        exchange.head(200, len(data), **({"ETag": etag} if etag else {}))
        exchange.body(data[: cut * PIECE])
        if ending == "reset":
            reset(exchange)

    cache = Cache(folder, reserve_bytes=0)
    web.answer = answer
    end, said, wrong = attempt(web, cache)
    if end not in allowed:
        wrong.append(f"it ended {end!r} ({said})")
    parts = list((folder / "parts").iterdir())
    kept = max((path.stat().st_size for path in parts if path.suffix != ".etag"), default=0)
    if end != "broken off" and parts:
        wrong.append(f"left behind: {parts}")
    if kept > REF.length:
        wrong.append(f"the part has {kept} bytes")
    if end != "complete" and cache.blobs():
        wrong.append("a file is in the cache that was not verified")
    if (
        kind.startswith("Range ok")
        and 0 < cut < CUTS
        and ending == "close"
        and web.asked[1:] != [(web.asked[0][0], f"bytes={cut * PIECE}-")]
    ):
        wrong.append(f"it did not go on where it was: {web.asked}")
    web.answer = lambda exchange: whole(exchange, asked_from(exchange))
    again, said, more = attempt(web, cache)
    if again != "complete":
        more.append(f"an honest server does not help: {said}")
    if kept and web.asked and web.asked[0][1] != f"bytes={kept}-":
        more.append(f"{kept} bytes were kept and {web.asked} was asked for")
    if list((folder / "parts").iterdir()):
        more.append("a part is left")
    return end, wrong + more


def cuts(extent: Extent, kind: str) -> list[int]:
    """Return after how many pieces to cut: in quick every one where the agent goes on, and one in eight elsewhere."""
    if extent.part == "slice":
        return extent.chance("cuts", kind).sample(range(1, CUTS), 2)
    if extent.part == "full" or kind in ("Range ok", "Range ignored", "changed file"):
        return list(range(CUTS + 1))
    return sorted({0, CUTS, *extent.chance("cuts", kind).sample(range(1, CUTS), CUTS // 8)})


@pytest.mark.timeout(7200)
def test_a_download_that_is_cut_anywhere_ends_whole_or_not_at_all(
    folder_in_memory: Path, extent: Extent, record_property: Callable[[str, object], None]
) -> None:
    endings = ("close", "reset") if extent.part == "full" else ("close",)
    ends: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    found: list[str] = []
    with serving() as web:
        for kind in KINDS:
            for cut in cuts(extent, kind):
                for ending in endings:
                    folder = folder_in_memory / f"{len(found)}-{kind}-{cut}-{ending}"
                    end, wrong = violations(kind, cut, ending, web, folder)
                    ends[kind][end] += 1
                    found += [f"{kind}, cut after {cut}, {ending}, seed {extent.seed}: {one}" for one in wrong]
                    for path in sorted(folder.rglob("*"), reverse=True):
                        path.rmdir() if path.is_dir() else path.unlink()
    heads = ("complete", "refused", "broken off")
    total = sum(sum(one.values()) for one in ends.values())
    title = f"Downloads that are cut, seed {extent.seed}: {total} cases, {len(found)} violations"
    show(record_property, title, ("then", *heads), [(kind, *(str(ends[kind][one]) for one in heads)) for kind in KINDS])
    assert not found, "\n".join(found[:50])
