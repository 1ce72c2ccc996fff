"""What does a reader see of runs, studies and records? One page that loads nothing, and its tables.

    report.html   the page: text through jinja2's escaping; by its own policy nothing runs but the
                  one script that it carries, known by its hash, so a class name can be anything
    report.md     the same tables as Markdown
    report.json   the same tables as values

A section is laid out in a file of its own; this one puts them together.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from picpoint.publish import publish_text
from picpoint.report.blocks import Block, Details, Paragraph, Section
from picpoint.report.classes import class_sections
from picpoint.report.cloud_drawing import PART_COLOURS
from picpoint.report.comparison import comparison_sections
from picpoint.report.evaluation import Evaluation, evaluation_sections
from picpoint.report.finetuning import finetuning_sections
from picpoint.report.parts import part_sections
from picpoint.report.plane_chart import PlaneChart
from picpoint.report.plots import NUM_HUES
from picpoint.report.pretraining import Pretraining, pretraining_sections
from picpoint.report.probes import Probed, probe_sections
from picpoint.report.records import Record, record_sections
from picpoint.report.run_groups import Finetuning
from picpoint.report.studies import Study, study_sections
from picpoint.report.tables import Column, Table, escape_markdown, table, to_json, to_markdown, word

PAGE_FILE, MARKDOWN_FILE, JSON_FILE = "report.html", "report.md", "report.json"
FORMAT_VERSION = 1

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Source:
    """Where something of the report came from.

    Attributes:
        place: folder or file.
        kind: what it is.
        commit: of the code that made it; "" where it does not say.
    """

    place: str
    kind: str
    commit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything that a report tells of.

    Attributes:
        title: heading of the page.
        created: when, as text.
        commit: of the code that wrote it.
        sources: what was given.
        evaluations: of pre-training runs, beside the same networks untrained.
        pretrainings: pre-training runs.
        finetunings: fine-tuning runs.
        probes: of frozen features.
        studies: with all their trials.
        records: of benchmarks.
    """

    title: str
    created: str
    commit: str
    sources: tuple[Source, ...]
    evaluations: tuple[Evaluation, ...] = ()
    pretrainings: tuple[Pretraining, ...] = ()
    finetunings: tuple[Finetuning, ...] = ()
    probes: tuple[Probed, ...] = ()
    studies: tuple[Study, ...] = ()
    records: tuple[Record, ...] = ()


def write_report(data: ReportData, folder: Path) -> Path:
    """Write the page, its Markdown and its JSON, each whole or not at all; gives the page.

    Raises:
        ReportError: a picture that the page needs is missing.
    """
    sections = lay_out(data)
    publish_text(render_page(data, sections), folder / PAGE_FILE)
    publish_text(render_markdown(data, sections), folder / MARKDOWN_FILE)
    publish_text(render_json(data, sections), folder / JSON_FILE)
    return folder / PAGE_FILE


def lay_out(data: ReportData) -> list[Section]:
    """Lay out all sections in their order.

    Raises:
        ReportError: a picture that the page needs is missing.
    """
    many = len(data.evaluations) > 1
    return [
        *(
            section
            for place, evaluation in enumerate(data.evaluations)
            for section in evaluation_sections(
                evaluation,
                suffix=f"-{place + 1}" if place else "",
                named=evaluation.name if many else "",
            )
        ),
        *comparison_sections(data.finetunings, data.probes),
        *finetuning_sections(data.finetunings),
        *class_sections(data.finetunings),
        *part_sections(data.finetunings),
        *probe_sections(data.probes),
        *study_sections(data.studies),
        *pretraining_sections(data.pretrainings),
        *record_sections(data.records),
        _sources_section(data),
    ]


def _sources_section(data: ReportData) -> Section:
    columns = [Column("Source", is_long=True), Column("Kind"), Column("Commit")]
    rows = [[word(each.place), word(each.kind), word(each.commit)] for each in data.sources]
    kinds = {
        "evaluation": data.evaluations,
        "pre-training run": data.pretrainings,
        "fine-tuning run": data.finetunings,
        "probe": data.probes,
        "study": data.studies,
        "record of a benchmark": data.records,
    }
    missing = [kind for kind, given in kinds.items() if not given]
    lead = f"Not given, so not shown: {', '.join(missing)}." if missing else ""
    return Section("sources", "Sources", lead, (table("What was read", columns, rows),))


def _verdict(data: ReportData) -> tuple[str, str]:
    """Give the sentence that the page begins with, and one that explains it."""
    if data.evaluations:
        return data.evaluations[0].verdict, data.evaluations[0].extent
    counts = [
        (len(data.finetunings), "fine-tuning run"),
        (len(data.probes), "probe"),
        (len(data.studies), "study"),
        (len(data.pretrainings), "pre-training run"),
        (len(data.records), "record"),
    ]
    told = [f"{count} {_plural(name, count)}" for count, name in counts if count]
    return (", ".join(told) or "Nothing was given") + ".", ""


def _plural(name: str, count: int) -> str:
    if count == 1:
        return name
    return f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"


def render_page(data: ReportData, sections: Sequence[Section]) -> str:
    """Fill the template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    verdict, extent = _verdict(data)
    script = (_TEMPLATES / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        data=data,
        sections=sections,
        verdict=verdict,
        extent=extent,
        script=script,
        script_hash=f"sha256-{digest}",
        num_hues=NUM_HUES,
        part_colours=[f"rgb({r} {g} {b})" for r, g, b in PART_COLOURS],
    )


def render_markdown(data: ReportData, sections: Sequence[Section]) -> str:
    """Give the same tables as Markdown."""
    verdict, extent = _verdict(data)
    lines = [f"# {escape_markdown(data.title)}", "", escape_markdown(f"{verdict} {extent}"), ""]
    for section in sections:
        lines += [f"## {escape_markdown(section.title)}", ""]
        if section.lead:
            lines += [escape_markdown(section.lead), ""]
        for block in section.blocks:
            lines += _markdown_of(block)
    written = f"Written {data.created} by picpoint at commit {data.commit}."
    lines.append(escape_markdown(written))
    return "\n".join(lines) + "\n"


def _markdown_of(block: Block) -> Iterator[str]:
    match block:
        case Paragraph():
            yield from [escape_markdown(block.text), ""]
        case PlaneChart():
            yield from [escape_markdown(block.summary), ""]
        case Details():
            for inner in block.blocks:
                yield from _markdown_of(inner)
        case _:
            yield from map(to_markdown, block.tables)


def render_json(data: ReportData, sections: Sequence[Section]) -> str:
    """Give the same tables as values."""
    verdict, extent = _verdict(data)
    told = {
        "format_version": FORMAT_VERSION,
        "title": data.title,
        "verdict": f"{verdict} {extent}".strip(),
        "created": data.created,
        "commit": data.commit,
        "sections": [
            {"title": section.title, "lead": section.lead, "tables": _tables_of(section)}
            for section in sections
        ],
    }
    return json.dumps(told, indent=1, allow_nan=False) + "\n"


def _tables_of(section: Section) -> list[dict[str, object]]:
    tables: list[Table] = [table for block in section.blocks for table in block.tables]
    return list(map(to_json, tables))
