"""The table of operations and their rules: written to docs/operations.md, or compared with it.

python benchmarks/operations_table.py            writes the file
python benchmarks/operations_table.py --check    exits with 1 where it is out of date
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

from edgeprune.ops import OPERATIONS, Operation

TARGET = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
HEAD = """# Operations and their rules

Every axis of every tensor carries one label for each index. An operation hands labels on, ties those
that must live or die together, and pins those that must stay. Weights that are read or made this way
become groups; `edgeprune inspect` lists the groups and, for each one left alone, the reason.

**What exact means.** The shrunk net equals the *masked* one: the original, in which whatever reads a
removed unit hears zeros. This holds in float64 to 1e-9 of the largest output and is checked at every
shrink. Axes that a layer norm, a group norm or a softmax normalises over are pinned, since losing a
channel there changes what is normalised; where such axes are allowed to lose channels, the shrunk net
equals the masked one whose normalisers see only what is left, and the groups are marked approximate.

**Unknown operations.** What no rule serves pins all that reaches it, and is named. A rule can be
registered from another distribution under the entry point `edgeprune.ops`.

"In place" variants (`relu_`) are served by the rule of the plain one. *Form* tells whether the
deterministic bounds know the operation.

| family | rule | operations | form |
|---|---|---|---|
"""


def row(member: Operation) -> str:
    text = inspect.getdoc(type(member)) or ""
    rule = " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
    known = "yes" if type(member).form is not Operation.form else "no"
    return f"| {member.name} | {rule} | {', '.join(f'`{h}`' for h in sorted(member.handles))} | {known} |"


def table() -> str:
    return HEAD + "\n".join(row(member) for member in OPERATIONS.values()) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare")
    if parser.parse_args().check:
        if not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != table():
            print(f"{TARGET.name} is out of date; run benchmarks/operations_table.py")
            sys.exit(1)
        return
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
