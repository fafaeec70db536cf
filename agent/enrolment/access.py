"""What each certificate may read and write at a broker, as the access file that mosquitto reads. Pure.

Rules:
- A board writes its own tree, and of that what boards say; it reads what is meant for it, for its groups and its fleet,
  and what other boards of its fleet measured, which they sign.
- An operator writes commands, desired states and how rollouts stand, of every fleet, and reads all; a collector reads
  all and writes receipts.
- The own tree is a pattern (``%u`` is the certificate's name), the same for every board. What a whole fleet hears needs
  lines for each board, since mosquitto can put the whole name into a topic and not its first half.
- Where Home Assistant is told of boards, collectors write discovery documents below its prefix and nothing else there;
  Home Assistant itself, a user with a password, has its prefix and reads what its entities show. It writes no command.
- A broker is trusted with none of this: commands are signed. These rules keep boards from disturbing each other.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.core.topics import PARAMETER, ROOT
from agent.enrolment.names import Member

#: The kinds of topic that a board writes, that it reads below its own name, and those that others have to themselves.
WRITTEN = (
    "status", "profile", "decision", "deployment", "reported", "measurement", "telemetry", "event", "job", "results",
)  # fmt: skip
READ = ("cmd", "desired", "receipt", "status")  # its status: to see that nobody else writes it
OTHERS = ("collector", "rollout")
#: What Home Assistant's entities show; ``agent.collector.home_assistant`` names the topics.
SHOWN = ("status", "telemetry", "deployment", "decision")
HOME_USER = "home-assistant"
_WIDE = ("_all", "_group/+")

_HEAD = """\
# Who may do what at this broker, for mosquitto 2.0. Made by `boardfit enroll acl`, which also reads a folder made by
# `boardfit enroll ca init`. After a change: systemctl reload mosquitto.
#
# %u is the name in the client's certificate: <fleet>/<device>, operator/<name> or collector/<name>. Nobody has more
# than is written here. mosquitto cannot tell retained messages from others; a board obeys a retained command once.

# Every board: its own tree, and of that what boards say and are told.
""" + "\n".join(
    [f"pattern write {ROOT}/%u/{kind}{'/+' if kind in PARAMETER else ''}" for kind in WRITTEN]
    + [f"pattern read {ROOT}/%u/{kind}{'/+' if kind in PARAMETER else ''}" for kind in READ]
)


def mosquitto_acl(members: Iterable[Member], home_prefix: str | None = None) -> str:
    """Return the access file for these certificates; a board that is not named has its own tree and no more.

    Args: home_prefix: Home Assistant's discovery prefix; None: it is not told of boards.
    """
    listed = {str(member): member for member in members}
    parts = [_HEAD, *(_section(listed[name]) for name in sorted(listed))]
    if home_prefix is not None:
        parts += _home_sections([name for name in sorted(listed) if listed[name].role == "collector"], home_prefix)
    return "\n\n".join(parts) + "\n"


def _home_sections(collectors: list[str], prefix: str) -> Iterable[str]:
    for name in collectors:  # mosquitto adds a second section of a user to the first
        yield f"user {name}\ntopic read {prefix}/status\ntopic readwrite {prefix}/device/+/config"
    lines = [f"topic read {ROOT}/+/+/{kind}{'/+' if kind in PARAMETER else ''}" for kind in SHOWN]
    yield "\n".join([f"user {HOME_USER}", f"topic readwrite {prefix}/#", *lines])


def _section(member: Member) -> str:
    fleets = f"{ROOT}/+"
    if member.role == "operator":
        lines = ["# Write a fleet's name for the first + of each line to keep this operator to it."]
        lines += [f"user {member}", f"topic read {ROOT}/#"]
        lines += [f"topic write {fleets}/{scope}/{end}" for scope in ("+", "_group/+") for end in ("cmd/+", "desired")]
        lines += [f"topic write {fleets}/{scope}/+" for scope in ("_rollout", "_operator")]
        return "\n".join(lines)
    if member.role == "collector":
        own = f"{fleets}/_collector/{member.name}/status"
        lines = [f"user {member}", f"topic read {ROOT}/#", f"topic write {fleets}/+/receipt", f"topic write {own}"]
        return "\n".join(lines)
    fleet = f"{ROOT}/{member.fleet}"
    lines = [f"user {member}"]
    lines += [f"topic read {fleet}/{scope}/{end}" for scope in _WIDE for end in ("cmd/+", "desired")]
    return "\n".join([*lines, f"topic read {fleet}/_collector/+/status", f"topic read {fleet}/+/results/+"])
