"""What the commands without a config take. Knows neither JAX nor any command.

So that a command can say what it takes without importing what it does.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import NoReturn

SILENT = 3
"""Exit status of the monitor when no usable row came for `--give_up_after` seconds."""

LIVE_SECONDS = {
    "no_data_after": (30.0, "say NO DATA when no usable row came for so long"),
    "frozen_after": (120.0, "say FROZEN when all values stayed the same for so long"),
    "out_of_range_after": (
        60.0,
        "say OUT OF RANGE when every row had a value far beyond training for so long",
    ),
    "stale_clock_after": (
        300.0,
        "say STALE CLOCK when dates that come are so far from this machine's clock",
    ),
    "heartbeat": (0.0, "say every so many seconds that the monitor is alive"),
    "give_up_after": (
        0.0,
        f"end with status {SILENT} when no usable row came for so long",
    ),
}
"""Of the monitor, by flag: seconds, 0 for never; and what it does while it is live."""

_PORTS = 1 << 16


class Parser(argparse.ArgumentParser):
    """Arguments of a command that takes no config; errors in one clean line."""

    def error(self, message: str) -> NoReturn:
        """Ends the command."""
        print(f"error: {message}; try --help", file=sys.stderr)
        sys.exit(2)


def host_and_port(flag: str, given: str) -> tuple[str, int]:
    """Returns the host and the port that a flag names.

    Raises:
      ValueError: it names something else.
    """
    host, _, port = given.rpartition(":")
    number = int(port) if port.isdecimal() else _PORTS
    if not host or number >= _PORTS:
        raise ValueError(
            f"{flag} must be HOST:PORT; got {given!r}; use such as 127.0.0.1:8000"
        )
    return host.strip("[]"), number


def add_trust_code(parser: argparse.ArgumentParser) -> None:
    """Adds the argument `trust_code` to those of a command."""
    parser.add_argument(
        "--trust_code",
        type=lambda text: text.split(","),
        default=[],
        metavar="PACKAGES",
        help="packages of your own whose classes the config of a saved run may name",
    )


def add_init(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `init`."""
    parser.add_argument(
        "folder", type=pathlib.Path, metavar="FOLDER", help="a folder of recordings"
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="FILE",
        help="the config to write, or a folder for it; by default FOLDER.py, here. "
        "A file that is there stays as it is",
    )


def add_check(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `check`."""
    parser.add_argument(
        "recordings",
        nargs="?",
        metavar="RECORDINGS",
        help="a folder of recordings, in layout V2 or of files, or a glob in quotes",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="instead of RECORDINGS: a config, whose recordings and ticks are taken",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("check.html"),
        metavar="FILE",
        help="the page to write; by default check.html, here. An earlier page is "
        "replaced, anything else stays as it is",
    )
    parser.add_argument(
        "--least_lead_s",
        type=float,
        metavar="S",
        help="the smallest lead to look at (0 s; of recordings of less than five "
        "minutes, minus a third of the usual length)",
    )
    parser.add_argument(
        "--most_lead_s",
        type=float,
        metavar="S",
        help="the largest (420 s, or a third of the usual length)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of wrong pairings and intervals (0)"
    )


def add_report(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `report`."""
    parser.add_argument(
        "run",
        type=pathlib.Path,
        metavar="RUN_DIR",
        help="the folder of a run; a packed run has no curves to be shown",
    )
    parser.add_argument(
        "--evaluation",
        type=pathlib.Path,
        metavar="DIR",
        help="the folder of its evaluation; by default RUN_DIR/evaluation",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="FILE",
        help="the file to write; by default RUN_DIR/report.html",
    )


def add_monitor(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `monitor`."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--checkpoint",
        type=pathlib.Path,
        help="a run, as its folder or packed; its alarm is made first if it has none",
    )
    which.add_argument("--alarm", type=pathlib.Path, help="an exported alarm")
    parser.add_argument(
        "--require_signature",
        type=pathlib.Path,
        metavar="PUBLIC_KEY",
        help="refuse an alarm that the owner of this Ed25519 key (PEM) has not signed",
    )
    parser.add_argument(
        "--input",
        required=True,
        help="a CSV file, - for standard input, or mqtt://HOST:PORT/TOPIC",
    )
    parser.add_argument(
        "--follow", action="store_true", help="wait for lines that are added to it"
    )
    parser.add_argument(
        "--log", type=pathlib.Path, help="a CSV file to which readings are added"
    )
    parser.add_argument(
        "--changes", action="store_true", help="show only raised and cleared alarms"
    )
    parser.add_argument(
        "--raise_at",
        type=float,
        metavar="P",
        help="raise the alarm at this probability, not at the one chosen on validation",
    )
    parser.add_argument(
        "--serve",
        metavar="HOST:PORT",
        help="show a page for the control room there, such as 127.0.0.1:8000 (live)",
    )
    parser.add_argument(
        "--token_file",
        type=pathlib.Path,
        metavar="FILE",
        help="of a token that whoever opens the page must give; otherwise it is in "
        "FMALIGN_TOKEN. Beyond this machine one is made if none is given",
    )
    parser.add_argument(
        "--mqtt",
        metavar="HOST:PORT",
        help="tell an MQTT broker there each change of the alarm (live)",
    )
    parser.add_argument(
        "--mqtt_topic",
        default="fmalign",
        metavar="TOPIC",
        help="below which the broker has it (fmalign)",
    )
    for name, (default, text) in LIVE_SECONDS.items():
        parser.add_argument(
            f"--{name}",
            type=float,
            default=default,
            metavar="S",
            help=f"{text} ({default:g} s; 0: never; live)",
        )
    add_trust_code(parser)
