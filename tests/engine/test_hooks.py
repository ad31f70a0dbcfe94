"""Every hook of another package that the engine uses is listed, and is still what was reviewed."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import app.engine
from app.engine.hooks import FAUST, HOOKS, Hook, HookGone, Package, difference, look, main
from app.engine.worker import worker_class

PACKAGES = ("faust", "mode", "aiokafka")
#: What every class has, and what mode puts into each of its classes by itself.
NOT_OVERRIDES = {
    "__module__", "__doc__", "__qualname__", "__dict__", "__weakref__", "__annotations__", "__abstractmethods__", "__orig_bases__",
    "__parameters__", "__static_attributes__", "__firstlineno__", "_abc_impl", "_tasks", "logger",
}  # fmt: skip
#: Private names of the standard library.
NOT_HOOKS = {"_exit"}
ADVICE = "read the upstream change, mend app/engine, then copy the line that `python -m app.engine.hooks` prints"


def engine_modules() -> list[str]:
    """All modules of the engine."""
    return [f"app.engine.{module.name}" for module in pkgutil.iter_modules(app.engine.__path__)]


def engine_classes() -> Iterator[type]:
    """The engine's classes that inherit from Faust, mode or aiokafka."""
    yield worker_class(list)
    for name in engine_modules():
        for cls in vars(importlib.import_module(name)).values():
            if inspect.isclass(cls) and cls.__module__ == name and any(foreign(base) for base in cls.__mro__):
                yield cls


def foreign(cls: type) -> bool:
    """It is part of one of the packages."""
    return cls.__module__.split(".")[0] in PACKAGES


def overrides(cls: type) -> Iterator[str]:
    """Targets of the attributes that ``cls`` has itself and a foreign base has too: the nearest base that has it."""
    for attribute in set(vars(cls)) - NOT_OVERRIDES:
        base = next((base for base in cls.__mro__[1:] if attribute in vars(base)), None)
        if base is not None and foreign(base):
            yield f"{base.__module__}:{base.__qualname__}.{attribute}"


def touched_private_names() -> dict[str, str]:
    """Private attributes that the engine's source reads, calls or sets and does not define itself, with the module."""
    defined, used = set[str](), dict[str, str]()
    for name in engine_modules():
        tree = ast.parse(inspect.getsource(importlib.import_module(name)))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                defined.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                defined.add(node.target.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and name != "app.engine.hooks":
                defined.add(node.value)  # __slots__
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
                    defined.add(node.attr)
                used[node.attr] = name
    return {attribute: module for attribute, module in used.items() if attribute not in defined | NOT_HOOKS}


def attribute_of(target: str) -> str:
    """The last part of a target."""
    return target.rpartition(":")[2].rpartition(".")[2]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.target)
def test_a_hook_is_what_was_reviewed(hook: Hook) -> None:
    problem = difference(hook)
    assert problem is None, f"{problem}. Used because: {hook.why}. {ADVICE}"


def test_everything_that_the_engine_overrides_is_listed() -> None:
    listed = {hook.target for hook in HOOKS}
    missing = {target: cls.__name__ for cls in engine_classes() for target in overrides(cls) if target not in listed}
    assert missing == {}, f"overridden but not in app/engine/hooks.py: {ADVICE}"


def test_every_private_name_that_the_engine_touches_is_listed() -> None:
    listed = {attribute_of(hook.target) for hook in HOOKS}
    missing = {name: module for name, module in touched_private_names().items() if name not in listed}
    assert missing == {}, f"touched but not in app/engine/hooks.py: {ADVICE}"


def test_nothing_is_listed_twice_and_every_entry_says_why() -> None:
    assert [target for target, times in Counter(hook.target for hook in HOOKS).items() if times > 1] == []
    assert all(hook.why and hook.digest for hook in HOOKS)


def test_versions_are_those_that_the_project_installs() -> None:
    pins = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for package in {hook.package for hook in HOOKS} - {Package("mode-streaming", "0.7.1")}:  # comes with Faust
        assert f'"{package.name}=={package.version}"' in pins


# -- the checks themselves ----------------------------------------------------------------------------


class Example:
    """Something to look at."""

    flag = True

    def __init__(self) -> None:
        self._set_in_init: int = 1

    def method(self, a: int, *, b: str = "x") -> int:
        # a comment
        return a


def example(attribute: str) -> Hook:
    """A hook on the class above, as it is now."""
    hook = Hook(f"{__name__}:Example.{attribute}", FAUST, "test", "", "")
    found = look(hook)
    return replace(hook, signature=found.signature, digest=found.digest)


def test_a_signature_has_parameters_and_defaults_but_no_annotations() -> None:
    assert look(example("method")).signature == "(self, a, *, b='x')"


@pytest.mark.parametrize("attribute", ["method", "flag", "_set_in_init"])
def test_an_unchanged_hook_differs_in_nothing(attribute: str) -> None:
    assert difference(example(attribute)) is None


def test_a_change_of_comments_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = example("method")

    class Newer:
        def method(self, a: int, *, b: str = "x") -> int:
            # another comment

            return a

    monkeypatch.setattr(Example, "method", Newer.method)
    assert difference(hook) is None


def test_a_change_of_source_signature_or_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = example("method")
    assert "0.0.1" in (difference(replace(hook, package=Package(FAUST.name, "0.0.1"))) or "")
    monkeypatch.setattr(Example, "method", lambda self, a, *, b="x": -a)
    assert "source has changed" in (difference(hook) or "")
    monkeypatch.setattr(Example, "method", lambda self: 0)
    assert "signature is (self), was (self, a, *, b='x')" in (difference(hook) or "")


def test_a_changed_default_value_of_a_class_is_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = example("flag")
    monkeypatch.setattr(Example, "flag", False)
    assert "source has changed" in (difference(hook) or "")


def test_a_hook_that_is_gone_is_named() -> None:
    gone = Hook(f"{__name__}:Example.gone", FAUST, "test", "", "")
    assert "does not exist" in (difference(gone) or "")
    with pytest.raises(HookGone):
        look(gone)


def test_an_override_that_nobody_listed_is_found() -> None:
    from app.engine.consumer import EngineConsumer

    class Sloppy(EngineConsumer):
        async def verify_all_partitions_active(self) -> None: ...

        def brand_new(self) -> None: ...

    assert list(overrides(Sloppy)) == ["faust.transport.consumer:Consumer.verify_all_partitions_active"]


def test_the_command_prints_a_line_for_every_hook_and_marks_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    printed = capsys.readouterr().out
    assert "CHANGED" not in printed
    lines = [line for line in printed.splitlines() if not line.lstrip().startswith("#")]
    assert len(lines) == len(HOOKS)
    listed = Path(app.engine.__path__[0], "hooks.py").read_text()
    assert all(line in listed for line in lines), "the lines can be copied as they are"


def test_the_command_marks_what_has_changed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Hook(f"{__name__}:Example.gone", FAUST, "test", "", "")
    monkeypatch.setattr("app.engine.hooks.HOOKS", (example("method"), replace(example("flag"), digest="0" * 16), gone))
    assert main() == 2
    marks = ["CHANGED" in line for line in capsys.readouterr().out.splitlines() if not line.lstrip().startswith("#")]
    assert marks == [False, True, True]
