"""Everything that can be measured, in one report with tables and plots.

Run with ``python -m benchmarks.report [--quick] [--only SECTION ...] [--output DIR]``. Writes
``report.md`` and the folder ``plots`` into the directory. Each section runs in a process of its
own; one that fails is in the report with its error, and the exit status is not zero.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from benchmarks import markdown
from benchmarks.machine import facts
from benchmarks.options import Options, parser, read
from benchmarks.plots import draw
from benchmarks.result import Result
from benchmarks.sections import SECTIONS, Failure, run

PLOTS = "plots"

QUICK = "Few rounds and small objects: the figures are rough."

HEAD = """\
# How fast it is

Written by `make {target}`. The contestants of a table took turns, so that what else the machine
did met all of them alike: ratios are to be trusted; times and rates belong to this machine at that
hour. Each figure is a median; in brackets, between what the middle half of the samples lies; in
parentheses, how many times ours (or the base that is named) it is. A goal that was missed says
so."""


def main() -> None:
    """Measure, write the report, and say by the exit status whether all went well."""
    # As an interrupt: the section that is running has to end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    arguments = _arguments()
    options = read(arguments)
    machine = facts()
    names = [name for name in SECTIONS if not arguments.only or name in arguments.only]
    began = time.monotonic()
    results = {}
    for number, name in enumerate(names, 1):
        results[name] = _measure(f"[{number}/{len(names)}] {name}", name, options)
    seconds = time.monotonic() - began
    write(results, options, machine | {"Time taken": f"{seconds:.0f} s"}, arguments.output)
    failed = [name for name, result in results.items() if isinstance(result, Failure)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see {arguments.output / 'report.md'}")


def _arguments() -> argparse.Namespace:
    command = parser(__doc__)
    command.add_argument(
        "--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS)
    )
    command.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent,
        help="where the report and its plots are written; next to this program by default",
    )
    return command.parse_args()


def _measure(progress: str, name: str, options: Options) -> Result | Failure:
    print(f"{progress} ...", end="", file=sys.stderr, flush=True)
    began = time.monotonic()
    result = run(name, options)
    verdict = "FAILED after" if isinstance(result, Failure) else "done in"
    print(f" {verdict} {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    if isinstance(result, Failure):
        print(result.error, file=sys.stderr)
    return result


def write(
    results: dict[str, Result | Failure], options: Options, machine: dict[str, str], output: Path
) -> None:
    """Write the report and draw its plots."""
    parts = [
        HEAD.format(target="bench-quick" if options.quick else "bench"),
        markdown.bullets(machine),
    ]
    if options.quick:
        parts.insert(1, QUICK)
    for name, result in results.items():
        if isinstance(result, Failure):
            parts.append(markdown.failure(SECTIONS[name], result))
            continue
        for plot in result.plots:
            draw(plot, output / PLOTS)
        parts.append(markdown.section(SECTIONS[name], result, PLOTS))
    output.mkdir(parents=True, exist_ok=True)
    (output / "report.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
