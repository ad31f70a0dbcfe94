"""How many distinct texts: HyperLogLog with 4,096 registers, standard error 1.6 %.

    error of one estimate   1.04 / sqrt(4096) = 1.6 %; 99.7 % of estimates are within 5 %
    size                    one small mapping up to 256 registers in use (exact to about 3 % there), then 4 KiB

Registers are maxima, so order, repeats and splits do not matter: ``merge`` is associative, commutative and idempotent.
The estimator is Ertl's (arXiv:1702.01284, "improved raw estimator"): no bias tables, no switch between formulas.
"""

from __future__ import annotations

import math
from typing import Final

from xxhash import xxh3_64_intdigest

PRECISION: Final = 12
REGISTERS: Final = 1 << PRECISION
#: Beyond so many registers in use the mapping would be larger than the bytes when stored.
MAX_SPARSE: Final = 256
#: Of registers that are all full, which only chosen hashes can do.
MAX_ESTIMATE: Final = 2**63 - 1
_BITS: Final = 64 - PRECISION
_MASK: Final = REGISTERS - 1
_ALPHA: Final = 1 / (2 * math.log(2))

#: Register to value while few are in use, then one byte for each. Read back from MessagePack, bytes are ``bytes``.
Sketch = dict[int, int] | bytearray | bytes


def add_text(sketch: Sketch, text: str) -> Sketch:
    """Add one text, in place unless the sketch has to grow; the sketch to go on with. It must be the caller's own."""
    digest = xxh3_64_intdigest(text.encode())
    at, value = digest & _MASK, _BITS + 1 - (digest >> PRECISION).bit_length()
    if isinstance(sketch, dict):
        if value > sketch.get(at, 0):
            sketch[at] = value
            if len(sketch) > MAX_SPARSE:
                return _dense(sketch)
        return sketch
    if value > sketch[at]:
        if isinstance(sketch, bytes):
            sketch = bytearray(sketch)
        sketch[at] = value
    return sketch


def merge(left: Sketch, right: Sketch) -> Sketch:
    """The sketch of both; neither is changed."""
    if isinstance(left, dict) and isinstance(right, dict):
        union = left.copy()
        for at, value in right.items():
            if value > union.get(at, 0):
                union[at] = value
        return _dense(union) if len(union) > MAX_SPARSE else union
    return bytearray(map(max, _dense(left), _dense(right)))


def copy_sketch(sketch: Sketch) -> Sketch:
    """A sketch that may be changed."""
    return sketch.copy() if isinstance(sketch, dict) else bytearray(sketch)


def estimate(sketch: Sketch) -> int:
    """How many distinct texts were added, rounded."""
    registers = _dense(sketch)
    used = [registers.count(value) for value in range(_BITS + 2)]
    z = REGISTERS * _tau(1 - used[_BITS + 1] / REGISTERS)
    for value in range(_BITS, 0, -1):
        z = 0.5 * (z + used[value])
    z += REGISTERS * _sigma(used[0] / REGISTERS)
    return round(_ALPHA * REGISTERS * REGISTERS / z) if z else MAX_ESTIMATE


def _dense(sketch: Sketch) -> bytearray | bytes:
    if not isinstance(sketch, dict):
        return sketch
    registers = bytearray(REGISTERS)
    for at, value in sketch.items():
        registers[at] = value
    return registers


def _sigma(x: float) -> float:
    if x == 1.0:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        before = z
        x *= x
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        before = z
        x = math.sqrt(x)
        y *= 0.5
        z -= (1 - x) ** 2 * y
    return z / 3
