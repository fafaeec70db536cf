"""Write the manual page boardfit(1) from the parser: every verb with what its ``--help`` says, and nothing else.

argparse-manpage does this too; it comes as a source archive only, which a build without network would have to build.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator

_COLUMNS = "88"  # of help texts, which stand in the page as they are


def quoted(text: str) -> str:
    """Return text that troff takes literally."""
    escaped = text.replace("\\", "\\(rs").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())


def verbs(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield each verb's parser, verbs of verbs included, in the order of help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in dict.fromkeys(action.choices.values()):
                yield one
                yield from verbs(one)


def page(parser: argparse.ArgumentParser, version: str, summary: str) -> str:
    """Return the page as troff."""
    own = parser.format_help()
    parts = [
        f'.TH BOARDFIT 1 "" "boardfit {version}" "boardfit"',
        f".SH NAME\nboardfit \\- {quoted(summary)}",
        ".SH SYNOPSIS\n.B boardfit\n.I VERB\n[options]",
        f".SH DESCRIPTION\n.nf\n{quoted(own.partition(chr(10) * 2)[2])}\n.fi",
        ".SH VERBS",
    ]
    parts += [f".SS {quoted(one.prog)}\n.nf\n{quoted(one.format_help())}\n.fi" for one in verbs(parser)]
    parts.append(
        ".SH FILES\n"
        ".TP\n.I /etc/boardfit/agent.yaml\nthe configuration, every key explained; whole sections may lie in conf.d\n"
        ".TP\n.I /var/lib/boardfit\nstate: measurements, decisions, the deployed model\n"
        ".TP\n.I /var/cache/boardfit\nwhat may be lost"
    )
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    os.environ["COLUMNS"] = _COLUMNS
    os.environ["NO_COLOR"] = "1"
    from agent import __version__
    from agent.cli import build_parser

    sys.stdout.write(page(build_parser(), __version__, "measures models on this board and deploys the best that fits"))
