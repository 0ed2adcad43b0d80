"""Summarize the checks of compiled networks in readable text. Standard library only."""

from __future__ import annotations

from engine.manifest import Entry


def verdict(entry: Entry) -> str:
    """One phrase: "ok, 2.0e-03; 5 not run", "FAILED; 1 not run" or "not run"."""
    ran = [check for check in entry.own_checks if check.status != "not run"]
    if not ran:
        return "not run"
    status = next((c.status.upper() for c in ran if c.status != "passed"), "ok")
    errors = [check.relative for check in ran if check.relative is not None]
    worst = f", {max(errors):.1e}" if errors else ""
    skipped = len(entry.own_checks) - len(ran)
    return f"{status}{worst}" + (f"; {skipped} not run" if skipped else "")


def unverified(entry: Entry) -> tuple[str, ...]:
    """A phrase for each reason why profiles did not pass, with the profiles."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for check in entry.own_checks:
        if check.status != "passed":
            reasons.setdefault((check.status, check.reason), []).append(str(check.batch))
    return tuple(
        f"batch {', '.join(sizes)} {status}" + (f", because {reason}" if reason else "")
        for (status, reason), sizes in reasons.items()
    )
