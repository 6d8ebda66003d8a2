"""Everything, in turns: `python -m benchmarks [GROUP …]`; `results.md` and `results.json` are written at the end."""

import argparse
import importlib
import os
import tempfile
import time
from pathlib import Path

from benchmarks.harness import LeftOut, Report
from model_registry.migrations import migrate
from model_registry_devstack import EmbeddedStack

GROUPS = ("metadata", "bytes_in", "bytes_out", "small_files", "presigning", "start_up", "client", "scale", "peers")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contest")
    parser.add_argument("--out", type=Path, default=Path(".benchmarks"), help="where the results go")
    chosen = parser.parse_args()
    report = Report(rounds=chosen.rounds)
    began = time.monotonic()
    for group in chosen.groups or GROUPS:
        report.running = group
        with tempfile.TemporaryDirectory() as folder, EmbeddedStack(Path(folder) / "data") as stack:
            migrate(stack.database_url)
            try:
                importlib.import_module(f"benchmarks.{group}").run(report, stack)
            except LeftOut as reason:
                if chosen.groups:
                    raise
                report.fact(group, f"left out: {reason}")
        report.write(chosen.out)
    report.fact("this run", f"{time.monotonic() - began:.0f} s, {report.rounds} turns, {os.cpu_count()} cores")
    report.write(chosen.out)


if __name__ == "__main__":
    main()
