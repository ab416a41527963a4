"""The arguments of study."""

from __future__ import annotations

from reports.cli_arguments import STDOUT, add_set, command_parser


def add_commands(commands) -> None:
    """The parser of study."""
    parser = command_parser(
        commands,
        "study",
        "a claim about networks and chips, checked: numbers, charts and a verdict; without a name the list of them",
        "rooftrace study",
        "rooftrace study memory-bound",
        "rooftrace study memory-bound --on v100-sxm h100-sxm --set memory.dram.bandwidth=4TB/s --chart ridge.png",
        "rooftrace study --all --out studies",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="studies to run")
    parser.add_argument("--list", action="store_true", help="list the studies with their questions, and leave")
    parser.add_argument("--all", action="store_true", help="run every study")
    parser.add_argument(
        "--on", nargs="+", action="extend", default=[], metavar="CHIP|FILE", help="chips instead of the study's own"
    )
    add_set(parser)
    group = parser.add_argument_group("output (files are written whole or not at all; - is standard output)")
    group.add_argument(
        "--out", metavar="FOLDER", help="write a page that stands alone (index.html) and studies.md with its charts"
    )
    group.add_argument(
        "--chart", metavar="FILE", help="the charts of one study: .png, .svg or .pdf; a second one is FILE-2"
    )
    group.add_argument("--csv", nargs="?", const=STDOUT, metavar="FILE|-", help="the tables, one row an entry")
    group.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        metavar="FILE|-",
        help="everything in SI units; layout: see reports.study_document.document",
    )
