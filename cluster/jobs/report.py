"""`picpoint report`: one page, and its tables, of any runs, results, studies and records."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.record import commit
from cluster.report_evaluation import read_evaluation
from cluster.report_sources import (
    FoundSource,
    find_sources,
    read_finetuning,
    read_pretraining,
    read_probe,
    read_record,
    read_study_shown,
)
from picpoint.report.page import (
    JSON_FILE,
    MARKDOWN_FILE,
    PAGE_FILE,
    ReportData,
    Source,
    write_report,
)


@dataclass(frozen=True, slots=True)
class ReportJob:
    """What is shown, and where.

    Attributes:
        sources: folders of evaluations, pre-training and fine-tuning runs, probes and studies, in
            any mixture, and records of benchmarks or folders of them.
        out: folder of report.html, report.md and report.json.
        num_sheet_shapes: of an evaluation, held-out shapes on the contact sheet.
        num_queries: of an evaluation, held-out shapes whose nearest neighbours are shown.
    """

    sources: tuple[str, ...]
    out: str = "report"
    num_sheet_shapes: int = 4
    num_queries: int = 8


def describe(job: ReportJob) -> list[str]:
    """Say what would be read and written."""
    found = find_sources(job.sources)
    out = Path(job.out)
    return [
        *(f"read   {each.kind}: {each.place}" for each in found),
        f"write  {out / PAGE_FILE}, {MARKDOWN_FILE}, {JSON_FILE}",
    ]


def run(job: ReportJob) -> Path:
    """Write the page and its tables.

    Raises:
        ResultsError: a source is not there, is nothing that a report shows, or is damaged.
        CheckpointError, ProbeError, LogError, ConfigError: a run, probe, log or study is not
            finished or damaged.
        ShardError: the shards that an evaluation's pictures come from cannot be read.
    """
    found = find_sources(job.sources)
    page = write_report(_gather(job, found), Path(job.out))
    print(f"{page}: {len(found)} sources; the same tables in {MARKDOWN_FILE} and {JSON_FILE}")
    return page


def _gather(job: ReportJob, found: Sequence[FoundSource]) -> ReportData:
    def of_kind(kind: str) -> list[Path]:
        return [each.place for each in found if each.kind == kind]

    evaluations = tuple(
        read_evaluation(place, job.num_sheet_shapes, job.num_queries)
        for place in of_kind("evaluation")
    )
    pretrainings = tuple(map(read_pretraining, of_kind("pre-training run")))
    finetunings = tuple(map(read_finetuning, of_kind("fine-tuning run")))
    probes = tuple(map(read_probe, of_kind("probe")))
    studies = tuple(map(read_study_shown, of_kind("study")))
    records = tuple(map(read_record, of_kind("record")))
    commits = {
        **{each.name: each.results.commit for each in evaluations},
        **{each.name: each.commit for each in (*pretrainings, *finetunings, *probes)},
        **{each.folder: each.commit for each in studies},
    }
    of_records = dict(zip(map(str, of_kind("record")), records, strict=True))
    commits |= {place: record.commit for place, record in of_records.items()}
    what = "what pre-training taught" if evaluations else "report"
    return ReportData(
        title=f"picpoint: {what}",
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=commit(),
        sources=tuple(
            Source(str(each.place), each.kind, commits.get(str(each.place), "")) for each in found
        ),
        evaluations=evaluations,
        pretrainings=pretrainings,
        finetunings=finetunings,
        probes=probes,
        studies=studies,
        records=records,
    )
