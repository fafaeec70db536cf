"""A board that has stepped down its ladder still serves what it was told to serve, as far as a rollout is concerned."""

from __future__ import annotations

from agent.core.messages import encode
from agent.core.payloads import DeploymentMessage
from agent.fleet.rollout_view import RolloutView

TOPIC = "boardfit/v1/plant/pi/deployment/t"


def test_what_was_chosen_counts_and_not_the_rung_that_serves_in_its_place() -> None:
    view = RolloutView("plant", "t", "job")

    def tell(**more: object) -> None:
        message = DeploymentMessage(fleet="plant", device="pi", task="t", changed_at="", previous_release="0", **more)  # type: ignore[arg-type]
        view.take(TOPIC, encode(message))

    tell(phase="done", candidate="big", release="1", rung=0, rungs=2)
    before = view.boards["pi"].serving
    tell(phase="stepped", candidate="small", release="2", rung=1, rungs=2, chosen_candidate="big", chosen_release="1")
    now = view.boards["pi"].serving
    assert before is not None and now is not None
    assert (now.candidate, now.release, now.previous, now.settled) == ("big", "1", "0", True)
    assert (now.candidate, now.release) == (before.candidate, before.release)
