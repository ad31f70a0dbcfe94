"""Money and other decimal numbers as whole millionths.

Sums of floats depend on the order of arrival; sums of integers do not, so a replay or another interleaving of the
same events gives the same result. Currencies are not looked at: an amount is what the sender wrote.
"""

from __future__ import annotations

from math import isfinite
from typing import Final

MICROS: Final = 1_000_000
#: A larger amount of one event has no meaning here and is ignored, as text that is no number is.
MAX_AMOUNT: Final = 1_000_000_000
#: Sums stay 64-bit integers, as MessagePack holds them: 9,223 events of ``MAX_AMOUNT`` are needed to get there.
MAX_SUM: Final = 2**63 - 1


def micros(value: object) -> int | None:
    """Millionths of a JSON number or of its decimal text, rounded half to even; None for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return round(number * MICROS) if isfinite(number) and -MAX_AMOUNT <= number <= MAX_AMOUNT else None


def saturate(total: int) -> int:
    """``total``, or the bound that it passed."""
    return total if -MAX_SUM <= total <= MAX_SUM else MAX_SUM if total > 0 else -MAX_SUM
