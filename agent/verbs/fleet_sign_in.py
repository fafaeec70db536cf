"""``fleet sign-in``: an operator's key for a console, held here; each wish is shown here before it is signed.

Rules:
- The console hears a signed statement for its own address and nothing else; the key never leaves this machine.
- Nothing is sent without a yes in this terminal, or ``--yes``. What is shown is what this machine has read and found
  out itself, not what the browser says of it.
- When this command ends, the console is read-only again.
"""

from __future__ import annotations

import argparse
import queue
import select
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

from agent.clock import SystemClock
from agent.errors import BoardfitError, ConfigError
from agent.fleet.pen import Pen
from agent.fleet.settings import operator_name
from agent.fleet.sign_in import why_not
from agent.fleet.signing import OperatorKey
from agent.fleet.wishes import Told, Wish, wish_text
from agent.verbs.fleet import ledger_folder, settings_of
from agent.verbs.fleet_wishes import Carrier
from agent.verbs.invocation import Invocation

_SLICE_S = 0.2


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the action."""
    parser = add("sign-in", "Sign in at a console, and sign here what is asked for there", run_sign_in)
    parser.add_argument("url", metavar="URL", help="the console's address, like https://console.example.org")
    key = "operator's key (default: ~/.config/boardfit/operator.key)"
    parser.add_argument("--key", type=Path, metavar="FILE", help=key)
    parser.add_argument(
        "--operator", metavar="NAME", help="operator's name in the registry (default: as FILE.pub says)"
    )
    text = "certificates that the console's is signed by (default: those the system trusts)"
    parser.add_argument("--console-ca", type=Path, metavar="FILE", help=text)
    parser.add_argument("--yes", action="store_true", help="sign whatever is asked for, without asking here")
    parser.add_argument("--no-browser", action="store_true", help="print the link, and open nothing")


def run_sign_in(call: Invocation) -> int:
    """Sign in, and take wishes until a stop is asked for or the console ends it."""
    if call.console.as_json:
        raise ConfigError("a sign-in is a conversation, no JSON document", fix="leave --json out")
    settings = settings_of(call)
    name, key = operator_name(settings), OperatorKey.load(settings.key)
    wishes: queue.Queue[Wish] = queue.Queue()
    ended: list[str] = []
    lock = threading.Lock()

    def say(text: str) -> None:
        with lock:
            call.console.rich.print(text, markup=False, highlight=False, soft_wrap=True)

    pen = Pen(
        call.arguments.url, key, name, SystemClock(),
        taken=wishes.put, ended=ended.append, ca=call.arguments.console_ca,
    )  # fmt: skip
    with pen:
        say(f"{pen.console}: signed in as {pen.signed_in.operator}, {pen.signed_in.role}.")
        say(f"Open this once, in one browser: {pen.link}")
        say("Ctrl-C ends it; the console is read-only then.")
        if not call.arguments.no_browser:
            _open(pen.link)
        carrier = Carrier(settings, ledger_folder(call), call.stop, say=say, tell=pen.tell)
        while not call.stop() and not ended:
            try:
                wish = wishes.get(timeout=_SLICE_S)
            except queue.Empty:
                continue
            _take(call, pen, carrier, wish, say)
    for reason in ended[:1]:
        say(reason)
    return 1 if ended else 0


def _take(call: Invocation, pen: Pen, carrier: Carrier, wish: Wish, say: Callable[[str], None]) -> None:
    """Show a wish, ask, and have it carried out or not."""
    say(f"Asked for in the browser: {wish_text(wish)}")
    refusal = why_not(wish.verb, pen.signed_in.role)
    try:
        if refusal is not None:
            raise ConfigError(refusal)
        say(f"  {carrier.meant(wish)}")
    except BoardfitError as error:
        say(f"  {error}")
        pen.tell(Told(id=wish.id, state="failed", text=str(error)[:2000]))
        return
    pen.tell(Told(id=wish.id, state="shown"))
    if not call.arguments.yes and not _yes(call, say):
        say("  not sent.")
        pen.tell(Told(id=wish.id, state="refused", text="no was said in the terminal"))
        return
    carrier.begin(wish)


def _yes(call: Invocation, say: Callable[[str], None]) -> bool:
    """Ask on the terminal. Returns: whether the answer is a yes; a stop or an end of the input is none."""
    say("  Sign and send it? [y/N]")
    while not call.stop():
        ready, _, _ = select.select([sys.stdin], [], [], _SLICE_S)
        if ready:
            return sys.stdin.readline().strip().lower() in ("y", "yes")
    return False


def _open(link: str) -> None:
    try:
        webbrowser.open(link)
    except webbrowser.Error:
        return
