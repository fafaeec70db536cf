"""Defects that somebody might make, and the suite that must turn red by each. Only the list; ``trying`` tries them.

Each stands for a line that somebody could leave out or turn round without any other line complaining. A suite is the
words that pytest is given; what it tries is pinned by one seed, so that a defect is caught each time or never.
"""

from __future__ import annotations

from typing import NamedTuple


class Defect(NamedTuple):
    """One defect. ``old`` stands in ``file`` once, and becomes ``new``; ``says`` must be in a failed test's words.

    ``costs``: whom it would cost what.
    """

    name: str
    file: str
    old: str
    new: str
    costs: str
    suite: tuple[str, ...]
    says: str


def _fault(path: str, *words: str) -> tuple[str, ...]:
    return (f"tests/faults/{path}", *words)


PROMISED = _fault("storage/test_promised.py")
POWER = _fault("storage/test_power.py")
DAMAGE = _fault("storage/test_damage.py", "--faults", "quick")
FULL = _fault("storage/test_disk.py", "-k", "full_disk")
DISK_ERRORS = ("tests/deploy/test_cut.py", "-k", "disk_error and symlink and ENOSPC")
ON_DISK_FIRST = ("tests/deploy/test_cut.py", "-k", "before_the_name")
KILLED = ("tests/deploy/test_killed.py", "-k", "every_row and (proving or proved)")
WITHHELD = ("tests/deploy/test_withheld.py",)
QUARANTINE = ("tests/deploy/test_executor.py", "-k", "three_failures")
FORGED = _fault("forged/test_forged.py", "-k", "desk")
FORGED_AT_LENGTH = (*FORGED, "--faults", "quick")
SPOOL = _fault("spool/test_spool.py")
RECEIPTS = ("tests/report/test_receipts.py", "-k", "very_bytes")
REGISTRY = _fault("test_registry.py")
FLOOR = _fault("test_registry.py", "-k", "gets_through", "--faults", "quick")
STORED_ENDS = ("tests/registry/test_client.py", "-k", "end_when")
DOWNLOADS = _fault("test_downloads.py")
HANDED = ("tests/measure/test_bench.py", "-k", "not_plainly_one")
HANG = _fault("hostile/test_hostile.py", "-k", "taken_over and hang", "--timeout", "30")
OUTPUT = _fault("hostile/test_hostile.py", "-k", "taken_over and event")
EXTERNAL = _fault("hostile/test_hostile.py", "-k", "typed_refusals and external")
BAD_INDEX = _fault("hostile/test_hostile.py", "-k", "typed_refusals and index")
CHAIN = _fault("hostile/test_hostile.py", "-k", "typed_refusals and chain")
ESCAPE = _fault("test_escape.py", "-k", "every_way_out")
CANDIDATES = _fault("test_candidates.py", "--faults", "quick")
CLOCK = _fault("test_clock.py")
PARSERS = _fault("parsers/test_parsers.py", "-k", "worker")
EVENTS = ("tests/measure/test_protocol.py",)
RESTART = ("tests/orders/test_desk.py", "-k", "restart_makes")
COLLECTED = ("tests/collector/test_store.py", "-k", "sent_again or any_order")

DEFECTS: tuple[Defect, ...] = (
    # --- storage ---
    Defect(
        "a file is published without fsync", "agent/durable.py",
        "            file.flush()\n            os.fsync(file.fileno())\n", "            file.flush()\n",
        "after a power cut the registry's metadata or the time floor is an empty file under its final name",
        PROMISED, "its bytes need not last",
    ),
    Defect(
        "a folder is never synced", "agent/durable.py",
        "    try:\n        os.fsync(descriptor)\n    finally:\n", "    try:\n        pass\n    finally:\n",
        "a deployment that was reported as done is gone after a power cut", PROMISED, "need not last",
    ),
    Defect(
        "a release's model is copied without fsync", "agent/deploy/files.py",
        "            os.fsync(writer.fileno())\n", "",
        "the link leads to a model of 0 bytes after a power cut, and the application does not start",
        PROMISED, "0 bytes instead of",
    ),
    Defect(
        "a download is put in place without fsync", "agent/registry/cache.py",
        """                os.fsync(file.fileno())
                with suppress(OSError):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read back what the disk holds
                status = os.fstat(file.fileno())
                good = status.st_nlink == 1 and status.st_size == length and hash_file(file) == sha256
                if good:
                    os.fchmod(file.fileno(), 0o444)
                    os.fsync(file.fileno())
""",
        """                status = os.fstat(file.fileno())
                good = status.st_nlink == 1 and status.st_size == length and hash_file(file) == sha256
                if good:
                    os.fchmod(file.fileno(), 0o444)
""",
        "what was downloaded over a metered link is downloaded again", PROMISED, "its bytes need not last",
    ),
    Defect(
        "synchronous=NORMAL", "agent/database.py",
        'connection.execute("PRAGMA synchronous=FULL")', 'connection.execute("PRAGMA synchronous=NORMAL")',
        "command counters, decisions and records that were acknowledged are gone after a power cut, without a trace",
        POWER, "lost after commit",
    ),
    Defect(
        "the same, on a disk that does nothing unasked", "agent/database.py",
        'connection.execute("PRAGMA synchronous=FULL")', 'connection.execute("PRAGMA synchronous=NORMAL")',
        "as before; this one needs neither root nor luck", PROMISED, "lost after commit",
    ),
    Defect(
        "current moves before previous", "agent/deploy/carrier.py",
        """            if record.restore_current is not None:
                self._store.set_link(task, PREVIOUS, self._store.chosen(task))  # of a rung: what it is a rung of
            self._store.set_link(task, CURRENT, wanted.release)
""",
        """            chosen = self._store.chosen(task)
            self._store.set_link(task, CURRENT, wanted.release)
            if record.restore_current is not None:
                self._store.set_link(task, PREVIOUS, chosen)
""",
        "cut between the two, the release to go back to is held by no link and may be collected",
        ON_DISK_FIRST, "StopIteration",
    ),
    Defect(
        "a damaged database is not looked for", "agent/database.py",
        '            if verdict != "ok":\n', "            if False:\n",
        "a board whose card lost some pages fails in every pass from then on", DAMAGE, "fails again in every pass",
    ),
    Defect(
        "the reserve is never given up", "agent/reserve.py",
        "                if free < LOW_BYTES:\n                    self.give_up()\n", "                pass\n",
        "on a full disk a rollback cannot be stored, and nobody is told", FULL, "the reserve was",
    ),
    Defect(
        "a full disk is taken for success", "agent/durable.py",
        "            temporary.unlink()\n        raise storage_error(error, link) from error\n",
        "            temporary.unlink()\n",
        "a deployment is told as done, and the old model serves", DISK_ERRORS, "what is done is all done",
    ),
    # --- deployment ---
    Defect(
        "a rollback leaves the link where it is", "agent/deploy/carrier.py",
        "        self._store.set_link(record.task, CURRENT, record.restore_current)\n", "",
        "what failed in its probation goes on serving, and is told as rolled back", CANDIDATES,
        "another release serves than before",
    ),
    Defect(
        "the switch is made before its row is stored", "agent/deploy/carrier.py",
        '            attempt.reason = None if result.passed else f"the proof failed: {result.reason}"\n',
        """            attempt.reason = None if result.passed else f"the proof failed: {result.reason}"
            if result.passed:
                self._store.set_link(task, CURRENT, wanted.release)
""",
        "killed in between, a release serves that nobody watches and nothing takes back", KILLED, "'new' == 'old'",
    ),
    Defect(
        "the proof decides nothing", "agent/deploy/carrier.py",
        '            attempt.reason = None if result.passed else f"the proof failed: {result.reason}"\n', "",
        "a model that does not load is switched in, and requests fail until the probation notices", CANDIDATES,
        "switched: True",
    ),
    Defect(
        "attempts of a day are not bounded", "agent/deploy/withheld.py",
        "        if tried >= MAX_ATTEMPTS:\n", "        if False:\n",
        "a disk that is almost full is worn out by copies, one an hour", WITHHELD, "no space left",
    ),
    Defect(
        "a quarantined model is tried again", "agent/deploy/withheld.py",
        "            if found.artifact_sha256 == candidate.sha256:\n", "            if False:\n",
        "a model that takes the board down does so at every pass", QUARANTINE, "is quarantined",
    ),
    # --- commands ---
    Defect(
        "a command's counter is not looked at", "agent/core/command.py",
        "    if command.counter <= last_counter:\n", "    if False:\n",
        "whoever recorded a command gives it again", FORGED, "accepted: number",
    ),
    Defect(
        "counters are forgotten with a restart", "agent/orders/desk.py",
        "max(self._counters.get(sealed.keyid, 0), self._jobs.counter(sealed.keyid))",
        "self._counters.get(sealed.keyid, 0)",
        "whoever recorded a command gives it again after the next restart", FORGED_AT_LENGTH, "accepted: number",
    ),
    Defect(
        "a signature is not verified", "agent/orders/desk.py",
        "        if not verify_ed25519(operator.public_key, sealed.signature, sealed.signed_bytes):\n",
        "        if verify_ed25519(operator.public_key, sealed.signature, sealed.signed_bytes) is None:\n",
        "whoever reaches the broker orders anything", FORGED, "accepted: number",
    ),
    Defect(
        "a command for another fleet is obeyed", "agent/core/command.py",
        "    if audience.fleet != at.fleet:\n", "    if False:\n",
        "a command for the test fleet is carried out in the plant", FORGED, "accepted: number",
    ),
    Defect(
        "a command for another board is obeyed", "agent/core/command.py",
        "    if audience.device is not None and audience.device != at.device:\n", "    if False:\n",
        "one board's rollback is every board's", FORGED, "accepted: number",
    ),
    Defect(
        "an expired command is obeyed", "agent/core/command.py",
        "    if at.now >= expires:\n", "    if False:\n",
        "a board that was off for a week does what was wanted then", FORGED, "accepted: number",
    ),
    Defect(
        "a role allows everything", "agent/core/command.py",
        "    if RANK.get(operator.role, -1) < RANK[role]:\n", "    if False:\n",
        "who may look may deploy", FORGED, "accepted: number",
    ),
    Defect(
        "the epoch is not compared", "agent/core/command.py",
        "    if rule.epoch and command.epoch != at.epoch:\n", "    if False:\n",
        "an old disk put back into a board repeats its old switches", FORGED, "accepted: number",
    ),
    Defect(
        "a key written twice is read once", "agent/core/envelope.py",
        "    if len(made) != len(pairs):\n", "    if False:\n",
        "what an operator's tool shows and what the board does are two things", FORGED, "accepted: number",
    ),
    Defect(
        "a job at work is begun again after a restart", "agent/orders/jobs.py",
        '    if record.state == "QUEUED" and not', '    if record.state != "DONE" and not',
        "a command that takes the agent down is carried out for ever", RESTART, "IN_PROGRESS",
    ),
    # --- telling ---
    Defect(
        "a PUBACK is taken for a receipt", "agent/report/publisher.py",
        "                if durable and self.receipts.expected:\n", "                if False:\n",
        "a killed broker has lost records that no board has any more", SPOOL, "lost: ",
    ),
    Defect(
        "a record is forgotten when it is sent", "agent/report/publisher.py",
        "            self._newest_sent = max(self._newest_sent, entry.seq)\n",
        "            self._newest_sent = max(self._newest_sent, entry.seq)\n"
        "            self.outbox.remove([entry.seq])\n",
        "every cut of the line loses what was on it", SPOOL, "lost: ",
    ),
    Defect(
        "a number is given again", "agent/report/outbox.py",
        "        connection.execute(\"UPDATE outbox_counter SET value = value + 1 WHERE name = 'seq'\")\n",
        '        connection.execute("UPDATE outbox_counter SET value = (SELECT coalesce(max(seq), 0) + 1 FROM outbox) '
        "WHERE name = 'seq'\")\n",
        "a collector takes a new record for one that it has, and confirms it", SPOOL, "one number stands for two",
    ),
    Defect(
        "a receipt of other bytes counts", "agent/report/outbox.py",
        '            if row is not None and digest(bytes(row["payload"])) == seen:\n',
        "            if row is not None:\n",
        "a broker that changes a record on its way makes the board forget the true one", RECEIPTS, "assert 1 == 3",
    ),
    Defect(
        "a record that comes twice is stored twice", "agent/collector/judging.py",
        "        digest=digest(payload),\n", "        digest=digest(payload + str(heard_s).encode()),\n",
        "what a board repeats after a broker's death counts twice in every figure", COLLECTED, "'first', 'fi",
    ),
    # --- registry and downloads ---
    Defect(
        "what was verified before is forgotten", "agent/registry/trust.py",
        '    _mend(directory)\n    with translated("the registry"):\n',
        "    shutil.rmtree(directory, ignore_errors=True)\n    _mend(directory)\n"
        '    with translated("the registry"):\n',
        "who holds the mirror shows an older registry, with the model whose flaw was corrected",
        REGISTRY, "not 'refused'",
    ),
    Defect(
        "expiry is judged by the clock alone", "agent/registry/trust.py",
        "        self._trusted_set.reference_time = max(one for one in (at, self._floor, proved) if one is not None)\n",
        "        self._trusted_set.reference_time = at\n",
        "a board that wakes in 1970 takes a registry of last year for today's", FLOOR, "not 'expired'",
    ),
    Defect(
        "stored metadata never ends", "agent/registry/client.py",
        "        if self._now() >= self._verified.expires():\n", "        if False:\n",
        "who keeps a board from its registry keeps it at an old list for ever", STORED_ENDS, "DID NOT RAISE",
    ),
    Defect(
        "a download is not hashed", "agent/registry/cache.py",
        "status.st_size == length and hash_file(file) == sha256\n                if good:",
        "status.st_size == length\n                if good:",
        "the mirror decides what runs", DOWNLOADS, "the cache holds another file",
    ),
    Defect(
        "a range is not compared with what was asked for", "agent/registry/http_transport.py",
        "            if match is None or int(match[1]) != offset:\n", "            if match is None:\n",
        "a server that answers another range makes every download fail", DOWNLOADS, "wrong range",
    ),
    Defect(
        "an answer has no end", "agent/registry/http_transport.py",
        "        stream.most = most_left(length, stream.offset)\n", "",
        "a metered link pays for whatever a server sends beyond the file", DOWNLOADS, "read on beyond the end",
    ),
    # --- the worker ---
    Defect(
        "a model may have a second name", "agent/measure/handing.py",
        "    elif found.st_nlink != 1:\n", "    elif False:\n",
        "an engine reads another program's file by a hard link", HANDED, "DID NOT RAISE",
    ),
    Defect(
        "a link is followed", "agent/measure/handing.py",
        "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK", "os.O_RDONLY | os.O_NONBLOCK",
        "what is measured is not the file that was verified", HANDED, "DID NOT RAISE",
    ),
    Defect(
        "no deadline by wall clock", "agent/measure/supervisor.py",
        "        if now >= self._end:\n", "        if False:\n",
        "a model that hangs stops the board's measuring for good", HANG, "Timeout",
    ),
    Defect(
        "an event may be of any length", "agent/measure/supervisor.py",
        "            if len(self._buffer) > MAX_EVENT_BYTES:\n", "            if False:\n",
        "a model that took its worker over fills the agent's memory", OUTPUT, "an event of 64 MiB",
    ),
    Defect(
        "limits are claimed and not set", "agent/measure/confine.py",
        "    limit(which, value)\n    return", "    return",
        "a hostile model fills the disk or the memory, and its measurement says that it could not", ESCAPE, "limit",
    ),
    Defect(
        "no filter of system calls", "agent/sandbox/seccomp.py",
        "    return install(program(architecture, os.getpid(), writes=writes, devices=devices))\n", "    return None\n",
        "a hostile model reaches the network and the kernel's rarer calls", ESCAPE, "DONE",
    ),
    Defect(
        "Landlock's rules are made and not entered", "agent/sandbox/landlock.py",
        "            rules.allow(path, rights)\n        rules.enter()\n", "            rules.allow(path, rights)\n",
        "a hostile model reads the agent's keys", ESCAPE, "DONE",
    ),
    Defect(
        "weights outside of the file are let through", "agent/runtimes/structure_onnx.py",
        "            elif field == 13 or (field == 14 and kind == _VARINT and at == _EXTERNAL):\n",
        "            elif field == 13 and not kind and kind:\n",
        "a model makes its engine read any file that the worker may read", EXTERNAL, "external data",
    ),
    Defect(
        "a node may name a tensor that is not there", "agent/runtimes/structure_tflite.py",
        "        if any(not least <= index < tensors for index in indexes):\n", "        if False:\n",
        "364 bytes make LiteRT read before its memory", BAD_INDEX, "index",
    ),
    Defect(
        "functions may call each other without end", "agent/runtimes/structure_onnx.py",
        "        if len(depth) < len(functions):\n", "        if False:\n",
        "a small file overflows onnxruntime's stack", CHAIN, "function chain",
    ),
    Defect(
        "a worker's words may come in any order", "agent/measure/protocol.py",
        "    if _ORDER.index(type(event)) <= reached or (", "    if (",
        "a model that took its worker over is measured as it likes, phase by phase again", EVENTS, "DID NOT RAISE",
    ),
    Defect(
        "a worker's words may be nested to any depth", "agent/measure/protocol.py",
        "    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:\n"
        '        raise ProtocolError(f"not an event',
        '    except msgspec.MsgspecError as error:\n        raise ProtocolError(f"not an event',
        "one line from a worker ends the agent", PARSERS, "RecursionError",
    ),
    # --- clocks ---
    Defect(
        "an order waits by the wall clock", "agent/orders/line.py",
        "if now >= self._ends[one.id] or wall >= read_time(one.expires_at)]", "if wall >= read_time(one.expires_at)]",
        "a clock that is set back prolongs every command", CLOCK, "TIMED_OUT",
    ),
    Defect(
        "a record's age is counted from 1970", "agent/report/outbox.py",
        "ELSE created_wall_s >= :plausible AND :wall", "ELSE :wall",
        "a board that woke without a clock throws away what it measured until it had one", CLOCK, "an hour is not old",
    ),
)  # fmt: skip
