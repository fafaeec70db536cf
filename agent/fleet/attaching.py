"""Going on with commands sent before: the answers that the broker has kept for us meanwhile, and those still to come.

Rules:
- A command's broker session is taken up again under its own client id; with its last answer it is given up.
- What was stored here before counts too: the greater revision holds.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from agent.core.operators import read_time
from agent.core.payloads import Job
from agent.core.ports import StopRequested
from agent.fleet.following import Answer, Following
from agent.fleet.ledger import Ledger, Sent
from agent.fleet.link import Link
from agent.fleet.sending import Told, listen, session
from agent.fleet.settings import FleetSettings


def recalled(ledger: Ledger, sent: Sent) -> Following:
    """Return how a command stands by what is stored here."""
    following = Following(sent.id, sent.boards, sent.offline)
    for job in ledger.answers(sent.id):
        following.take(job.device, job, others=True)
    if not sent.listening:
        following.give_up_on_silent()
    return following


def attach(
    settings: FleetSettings,
    ledger: Ledger,
    sent: Sent,
    *,
    stop: StopRequested,
    told: Told,
    now: datetime,
    wait_s: float,
) -> Following:
    """Take up a command again, and follow it for up to ``wait_s`` seconds; 0 takes what is there already.

    Raises: ReportError: the broker. StorageError.
    """
    following = recalled(ledger, sent)
    left_s = (read_time(sent.until) - now).total_seconds()
    if following.ended or left_s <= 0 or not sent.listening:
        return following
    fresh: dict[str, Job] = {}

    def heard(answer: Answer, job: Job) -> None:
        fresh[answer.board] = job
        told(answer)

    kept = session(settings, sent.id, left_s)
    with Link(settings.broker, settings.fleet, stop, kept) as link:
        listen(link, following, heard, others=True)
        link.connect()
        link.settle()
        ended = link.wait(lambda: following.ended, wait_s)
        ledger.keep_answers(list(fresh.values()))
        if ended:
            ledger.keep(msgspec.structs.replace(sent, boards=tuple(following.answers), listening=False))
            link.forget()
    return following
