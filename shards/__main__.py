"""`python -m shards inspect|verify|stats DIR`: look at a shard set from the command line."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shards.describe import chosen_samples, inspect, stats
from shards.errors import ShardError
from shards.reader import ShardReader
from shards.sheet import write_sheet
from shards.verify import EXIT_WHOLE, exit_code, verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and tell the exit code.

    0 whole; 2 a wrong command or URL; 3 something is missing; 4 damaged or foreign; 5 cannot be
    read.
    """
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # argparse has printed what is wrong, or the help
        return int(stop.code or EXIT_WHOLE)
    try:
        match options.command:
            case "verify":
                report = verify(options.url)
                print(report)
                return report.exit_code
            case "stats":
                print(stats(options.url))
            case _:
                print(inspect(options.url, options.key))
                if options.sheet:
                    reader = ShardReader(options.url)
                    write_sheet(reader, chosen_samples(reader, options.key), 4, options.sheet)
                    print(f"written: {options.sheet}")
    except ShardError as error:
        print(error, file=sys.stderr)
        return exit_code(error)
    return EXIT_WHOLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("verify", "read every byte and tell what is damaged, missing or foreign"),
        ("stats", "count samples, labels, rejects and bytes"),
        ("inspect", "describe the shards, or one sample"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("url", help="folder, s3://, gs:// or az://")
    commands.choices["inspect"].add_argument("--key", help="key or source id of one sample")
    commands.choices["inspect"].add_argument(
        "--sheet",
        type=Path,
        help="PNG to write: up to 12 samples with points drawn on them",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
