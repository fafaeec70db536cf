"""What a board tells its class of its measurements, as it travels: signed by the board, believed by none before. Pure.

What is inside, and what it is worth, is ``agent.core.class_results``, which an idle agent need not load.
"""

from __future__ import annotations

from typing import Literal

from agent.core.payloads import Origin

RESULTS_TYPE = "application/vnd.boardfit.results+json"
MAX_TOLD_BYTES = 64 * 1024  # of a payload: with base64 and certificates it fits into one message


class ResultsMessage(Origin, frozen=True, kw_only=True):
    """What a board tells its class, signed by the key of its certificate. Retained; believed by none before it is held.

    ``payload`` is the JSON of a list of ``BoardResults``, one for each task, in base64. The signature is ECDSA with
    SHA-256 over DSSE's pre-authentication encoding of the payload with ``RESULTS_TYPE``.
    """

    class_fingerprint: str
    payload: str
    certificates: str  # PEM: the board's own first, then what leads to the authority
    signature: str  # base64
    digest: str  # SHA-256 of what is told, the time it is told at left out: whether it is news
    schema: Literal["boardfit.results-message/1"] = "boardfit.results-message/1"
