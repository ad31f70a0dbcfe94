"""What the README shows is true for what is there: its diffs apply, its files and commands exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def hunks() -> list[tuple[str, list[str]]]:
    """File and the lines of each hunk of the README's diffs that must stand in it, joined as they stand there."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```diff\n(.*?)```", README, re.DOTALL):
        path = ""
        for line in block.splitlines():
            if line.startswith("--- "):
                path = line.removeprefix("--- a/") if line != "--- /dev/null" else ""
                found += [(path, [])] if path else []
            elif line.startswith("@@"):
                found.append((path, []))
            elif path and line[:1] in (" ", "-"):
                found[-1][1].append(line[1:])
    return found


def test_the_diffs_of_the_readme_apply_to_what_is_there() -> None:
    changed = hunks()

    assert {path for path, _ in changed} == {
        "app/domain/errors.py",
        "app/domain/validation.py",
        "app/topics.py",
        "tables/windows.py",
    }
    for path, lines in changed:
        assert "\n".join(lines) in (ROOT / path).read_text(encoding="utf-8")


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"`?make ([a-z-]+)", README))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert {"demo", "test", "worker"} <= targets
    assert not {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)}


def test_every_file_that_the_readme_links_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]

    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
