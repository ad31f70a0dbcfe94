"""What every check of ``veltrix doctor`` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. ``advice`` says what to do; empty when nothing is to be done."""

    name: str
    status: Status
    detail: str
    advice: str = ""


def ok(name: str, detail: str) -> Check:
    return Check(name, "ok", detail)


def warn(name: str, detail: str, advice: str) -> Check:
    return Check(name, "warn", detail, advice)


def fail(name: str, detail: str, advice: str) -> Check:
    return Check(name, "fail", detail, advice)
