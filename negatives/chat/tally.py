"""What a run of requests reports: its counts, and events as they happen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What a run did; every request pulled is cached, answered, failed or unanswered, unless the run was stopped."""

    sent: int = 0
    """Requests over the wire, every try counted."""
    answered: int = 0
    """Requests that got a good answer in this run."""
    cached: int = 0
    """Requests that needed none: settled by an earlier run, or asked twice in this one."""
    failed: Counter[str] = field(default_factory=Counter)
    """Outcome -> requests whose last attempt ended so."""
    unanswered: int = 0
    """Requests that got no answer for all their tries; the next run asks them again."""
    retried: int = 0
    """Tries after one that failed on the way."""
    faults: Counter[str] = field(default_factory=Counter)
    """What tries failed by: "timeout", "connection", "damaged" or a status such as "429"."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """By the price given, of what the server reported; what it charged for time-outs is not known."""
    stopped: str = ""
    """Which of `max_requests` and `max_cost` ended the run, if one did."""


@dataclass(frozen=True)
class Event:
    """Something to show: `kind` is one of answered, cached, failed, unanswered, retry, fallback, stopped.

    `tally` is the run's own, which goes on counting.
    """

    kind: str
    detail: str
    tally: Tally
