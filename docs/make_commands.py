"""Write docs/commands.md from what each command says with --help.

python docs/make_commands.py          write it
python docs/make_commands.py --check  exit with 1 if it is not up to date
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REFERENCE = Path(__file__).with_name("commands.md")
COMMANDS = ("", "convert", "distill", "inspect", "compare", "export", "hyper")


def main() -> None:
    """Write or check the reference."""
    wanted = reference()
    if "--check" not in sys.argv:
        REFERENCE.write_text(wanted, encoding="utf-8")
    elif not REFERENCE.is_file() or REFERENCE.read_text(encoding="utf-8") != wanted:
        sys.exit(f"{REFERENCE.name} differs from --help; run python docs/make_commands.py")


def reference() -> str:
    """The reference as Markdown."""
    parts = [f"## `{f'phnnify {c}'.strip()}`\n\n```text\n{help_of(c)}\n```" for c in COMMANDS]
    return "# Commands\n\nMade from `--help` by `docs/make_commands.py`.\n\n" + "\n\n".join(parts) + "\n"


def help_of(command: str) -> str:
    """What `phnnify COMMAND --help` prints on 80 columns."""
    arguments = [sys.executable, "-m", "phnnify", *command.split(), "--help"]
    environment = {**os.environ, "COLUMNS": "80", "TERMINAL_WIDTH": "80", "NO_COLOR": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip().replace("python -m phnnify", "phnnify")


if __name__ == "__main__":
    main()
