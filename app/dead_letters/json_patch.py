"""JSON Patch (RFC 6902): the edit of a dead letter, and of every letter of a replay.

[{"op": "replace", "path": "/userId", "value": "42"}, {"op": "remove", "path": "/context/oldField"}]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson

#: More than any edit that somebody understands.
MAX_OPERATIONS: Final = 100


class PatchFailed(Exception):
    """The patch is not one, or does not fit the document. The message says which operation and why."""


def apply_patch(raw: bytes | None, patch: Sequence[Mapping[str, Any]]) -> bytes:
    """The patched document. ``raw``: JSON.

    Raises:
        PatchFailed: nothing was changed.
    """
    try:
        document = orjson.loads(raw or b"")
    except orjson.JSONDecodeError as exc:
        raise PatchFailed("the value is not JSON, so it cannot be patched: give the whole value instead") from exc
    for number, operation in enumerate(patch):
        try:
            document = _apply(document, operation)
        except (KeyError, IndexError, TypeError, ValueError) as exc:
            raise PatchFailed(f"operation {number} ({operation.get('op')} {operation.get('path')}): {_said(exc)}") from exc
    return orjson.dumps(document)


def check_patch(patch: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what can be seen to be no patch, before it meets a document.

    Raises:
        PatchFailed: says which operation.
    """
    if not 1 <= len(patch) <= MAX_OPERATIONS:
        raise PatchFailed(f"a patch has 1 to {MAX_OPERATIONS} operations")
    for number, operation in enumerate(patch):
        kind = operation.get("op")
        if kind not in _OPERATIONS:
            raise PatchFailed(f"operation {number}: op is one of {', '.join(_OPERATIONS)}")
        needed = {"path"} | ({"value"} if kind in ("add", "replace", "test") else {"from"} if kind in ("move", "copy") else set())
        if missing := sorted(needed - operation.keys()):
            raise PatchFailed(f"operation {number} ({kind}): {', '.join(missing)} is missing")
        for name in ("path", "from"):
            if name in needed:
                try:
                    _tokens(operation[name])
                except ValueError as exc:
                    raise PatchFailed(f"operation {number} ({kind}): {name}: {exc}") from exc


def _apply(document: Any, operation: Mapping[str, Any]) -> Any:
    run = _OPERATIONS.get(operation["op"])
    if run is None:
        raise ValueError("there is no such operation")
    return run(document, operation)


def _add(document: Any, operation: Mapping[str, Any]) -> Any:
    return _put(document, _tokens(operation["path"]), copy.deepcopy(operation["value"]))


def _remove(document: Any, operation: Mapping[str, Any]) -> Any:
    return _take(document, _tokens(operation["path"]))[0]


def _replace(document: Any, operation: Mapping[str, Any]) -> Any:
    tokens = _tokens(operation["path"])
    if not tokens:
        return copy.deepcopy(operation["value"])
    parent = _find(document, tokens[:-1])
    _find(parent, tokens[-1:])
    parent[_index(parent, tokens[-1]) if isinstance(parent, list) else tokens[-1]] = copy.deepcopy(operation["value"])
    return document


def _move(document: Any, operation: Mapping[str, Any]) -> Any:
    source, target = _tokens(operation["from"]), _tokens(operation["path"])
    if target[: len(source)] == source and target != source:
        raise ValueError("a value cannot be moved into itself")
    document, value = _take(document, source)
    return _put(document, target, value)


def _copy(document: Any, operation: Mapping[str, Any]) -> Any:
    return _put(document, _tokens(operation["path"]), copy.deepcopy(_find(document, _tokens(operation["from"]))))


def _test(document: Any, operation: Mapping[str, Any]) -> Any:
    if not _equal(_find(document, _tokens(operation["path"])), operation["value"]):
        raise ValueError("the value there is another one")
    return document


_OPERATIONS: Final[Mapping[str, Callable[[Any, Mapping[str, Any]], Any]]] = {
    "add": _add, "remove": _remove, "replace": _replace, "move": _move, "copy": _copy, "test": _test,
}  # fmt: skip


def _tokens(pointer: object) -> list[str]:
    """RFC 6901."""
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise ValueError("a JSON pointer is empty or begins with /")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def _find(document: Any, tokens: Sequence[str]) -> Any:
    for token in tokens:
        if isinstance(document, list):
            document = document[_index(document, token)]
        elif isinstance(document, dict):
            document = document[token]
        else:
            raise KeyError(token)
    return document


def _put(document: Any, tokens: list[str], value: Any) -> Any:
    if not tokens:
        return value
    parent, last = _find(document, tokens[:-1]), tokens[-1]
    if isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else _index(parent, last, past_end=True), value)
    elif isinstance(parent, dict):
        parent[last] = value
    else:
        raise KeyError(last)
    return document


def _take(document: Any, tokens: list[str]) -> tuple[Any, Any]:
    """The document without it, and what it was."""
    if not tokens:
        return None, document
    parent, last = _find(document, tokens[:-1]), tokens[-1]
    _find(parent, [last])
    return (document, parent.pop(_index(parent, last))) if isinstance(parent, list) else (document, parent.pop(last))


def _index(array: list[Any], token: str, *, past_end: bool = False) -> int:
    if not (token.isascii() and token.isdigit()) or (len(token) > 1 and token[0] == "0"):
        raise ValueError(f"{token!r} is no index of an array")
    number = int(token)
    if number >= len(array) + past_end:
        raise IndexError(token)
    return number


def _equal(one: Any, other: Any) -> bool:
    """As JSON: 1 is 1.0, and true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _said(exc: Exception) -> str:
    return f"there is nothing at {exc}" if isinstance(exc, (KeyError, IndexError)) else str(exc)
