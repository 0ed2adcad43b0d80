"""Which of Ray Serve's replicas takes a call: who knows the picture, unless it is far busier.

A replica keeps the trajectories of the pictures it edited, so the next edit of one costs 100 rows
there and 140 elsewhere.
"""

from __future__ import annotations

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import PendingRequest, RunningReplica

STATS_SECONDS = 0.5
"""How often the replicas' loads are asked for; they may be twice as old where they are used."""


class PictureRouter(ConsistentHashRouter):
    """Consistent hashing by what a call prefers, and past a busy replica where that is quicker."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Replicas in the order in which to try them."""
        ranks: list[list[RunningReplica]] = await super().choose_replicas(
            candidate_replicas, pending_request
        )
        session = pending_request.metadata.session_id if pending_request is not None else ""
        return ordered(session or "", ranks, candidate_replicas)


def ordered(
    session: str, ranks: list[list[RunningReplica]], candidates: list[RunningReplica]
) -> list[list[RunningReplica]]:
    """The hash's order, changed where the call asks for one replica or its own is too busy.

    Args:
        session: what the call prefers; see `front.Call.prefer`.
        ranks: by consistent hashing.
    """
    kind, _, word = session.partition(":")
    if kind == "server":
        named = [r for r in candidates if r.replica_id.unique_id == word]
        return [named] if named else ranks
    if kind == "keep" or not ranks:
        return ranks
    loads = {r: r.routing_stats.get("backlog", 0.0) for r in candidates}
    (first, *_), idle = ranks[0], min(candidates, key=loads.__getitem__)
    detour = first.routing_stats.get("detour", 0.0) if kind == "image" else 0.0
    done_since = 2 * STATS_SECONDS
    return [[idle], *ranks] if loads[first] - done_since > loads[idle] + detour else ranks
