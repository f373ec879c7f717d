"""Write the parts of the documents that the code knows: settings, limits, and every command's options.

    python scripts/document.py [--check]

In docs/, what stands between `<!-- generated: NAME -->` and `<!-- end -->` is made anew. `--check` writes
nothing and exits with 1 if a document is out of date.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from edgeprune.cli import COMMANDS, main
from edgeprune.config import Settings
from edgeprune.schema import described
from edgeprune.verdict.limits import Limits, Regressions

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^(<!-- generated: ([\w-]+) -->\n).*?(?=^<!-- end -->$)", re.DOTALL | re.MULTILINE)
LONGEST = 200


def cell(text: str) -> str:
    """Text as a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def value(default: Any) -> str:
    """A default as TOML writes it; a dash where nothing is set."""
    return "–" if default in (None, "", ()) else f"`{json.dumps(default)}`"


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


def flags() -> dict[str, str]:
    """The option of each setting."""
    return {
        parameter.name: "/".join((*parameter.opts, *parameter.secondary_opts))
        for name in ("certify", "run")
        for parameter in command(name).params
        if isinstance(parameter, click.Option) and parameter.name
    }


def settings() -> str:
    """Every setting: its default, its option, what it says."""
    words, options = described(Settings), flags()

    def rows() -> Iterator[tuple[str, ...]]:
        for field in dataclasses.fields(Settings):
            if field.name != "limits":
                option = options.get(field.name, "the argument MODEL" if field.name == "model" else "")
                shown = f"`{option}`" if option.startswith("-") else option or "only in the file"
                yield f"`{field.name}`", value(field.default), shown, cell(words[field.name])

    return table(("setting", "default", "option", "what it says"), rows())


def named(kind: type[Any]) -> Callable[[], str]:
    """The fields of a dataclass and what its docstring says of them."""

    def made() -> str:
        words = described(kind)
        names = (field.name for field in dataclasses.fields(kind))
        return table(("name", "what it says"), ((f"`{name}`", cell(words[name])) for name in names))

    return made


def commands() -> str:
    """Every command: what it does, examples, options."""
    return "\n".join(_section(name) for name in COMMANDS)


def _section(name: str) -> str:
    found = command(name)
    prose, _, example = inspect.cleandoc(found.help or "").partition("\b\n")
    arguments = [p.make_metavar(click.Context(found)) for p in found.params if isinstance(p, click.Argument)]
    usage = " ".join(["edgeprune", name, *arguments])
    lines = [f"## `edgeprune {name}`", "", *(" ".join(p.split()) + "\n" for p in prose.strip().split("\n\n"))]
    lines += [f"Usage: `{usage} [OPTIONS]`", ""]
    if example:
        examples = [line.rstrip() for line in inspect.cleandoc("\n" + example).splitlines()]
        lines += ["```", *(line for line in examples if line), "```", ""]
    rows = (
        (f"`{_spelled(p)}`", cell(_meaning(p)))
        for p in found.params
        if isinstance(p, click.Option) and p.name not in ("verbose", "quiet")
    )
    return "\n".join(lines) + "\n" + table(("option", "what it does"), rows)


def _spelled(option: click.Option) -> str:
    names = "/".join((*option.opts, *option.secondary_opts))
    if option.is_flag:
        return names
    shape = option.make_metavar(click.Context(main))
    return f"{names} {shape}".replace("|", "\\|")


def _meaning(option: click.Option) -> str:
    text = option.help or ""
    if option.show_default and option.default is not None and not option.is_flag:
        text = f"{text} [default: {option.default}]"
    return f"{text} Required." if option.required else text


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "limits": named(Limits),
    "regressions": named(Regressions),
    "commands": commands,
}


def documented(text: str) -> str:
    """A document with every generated part made anew."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n", text)


def outdated() -> dict[Path, str]:
    """The documents that are not what the code says, as they should be."""
    pages = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))}
    return {path: after for path, text in pages.items() if (after := documented(text)) != text}


def entry() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if out of date")
    asked, found = parser.parse_args(), outdated()
    names = ", ".join(str(path.relative_to(ROOT)) for path in found)
    if asked.check:
        sys.exit(f"out of date: {names}; run: python scripts/document.py" if found else 0)
    for path, text in found.items():
        path.write_text(text, encoding="utf-8")
    print(f"written: {names or 'nothing, all is as the code says'}")


if __name__ == "__main__":
    entry()
