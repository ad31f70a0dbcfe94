"""Stored state that cannot be trusted: never a dead letter, since no event is to blame; the worker must stop."""

from __future__ import annotations


class DamagedState(Exception):
    """A stored value is unreadable or missing. Each subclass says what an operator does about it."""
