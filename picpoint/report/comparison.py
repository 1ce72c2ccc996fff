"""How do results stand beside what others published? Tables, costs against accuracy, protocols."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from picpoint.report.blocks import Block, Details, Paragraph, Section
from picpoint.report.cost_charts import CostDot, cost_charts
from picpoint.report.probes import Probed
from picpoint.report.protocol import Check, check_folds, check_probe, differences
from picpoint.report.published import BENCHMARKS, Benchmark, Printed, PublishedRow
from picpoint.report.run_groups import Finetuning, RunGroup, Spread, group_folds, group_runs
from picpoint.report.tables import NOTHING, Cell, Column, Row, Table, number, percent, table, word
from picpoint.scores import scene_figures

_OTHER_COSTS = "Published costs are of the networks for classification, ours of the whole network."


@dataclass(frozen=True, slots=True)
class OurRow:
    """A result of ours on a benchmark.

    Attributes:
        name: of the network and how it began.
        runs: the folders.
        figures: by name, 0..1.
        num_seeds: that they are means of.
        parameters_m: millions; None where it is not known.
        gflops: likewise.
        remark: what must be known of the cost.
        checks: of the protocol.
    """

    name: str
    runs: str
    figures: dict[str, Spread]
    num_seeds: int
    parameters_m: float | None
    gflops: float | None
    remark: str
    checks: list[Check]


def comparison_sections(
    finetunings: Sequence[Finetuning], probes: Sequence[Probed]
) -> list[Section]:
    """Put results beside published ones; none where there are no results."""
    if not finetunings and not probes:
        return []
    blocks: list[Block] = []
    not_run: list[Benchmark] = []
    for benchmark in BENCHMARKS:
        is_of_folds = len(benchmark.evaluated_on) > 1
        tuned = _folds_of if is_of_folds else _tuned_on
        ours = [*tuned(benchmark, finetunings), *_probed_on(benchmark, probes)]
        if ours:
            blocks += _blocks_of(benchmark, ours)
        else:
            not_run.append(benchmark)
    if own := _of_no_benchmark(finetunings, probes):
        blocks.append(
            Paragraph(
                f"No figure is published on {', '.join(own)}: what was measured on them stands "
                "beside its own control alone."
            )
        )
    blocks.append(_not_run(not_run))
    lead = (
        "Per cent, as printed in the sources. A row of ours is marked, and says which parts of the "
        "protocol its run did not keep: such a row may not be compared."
    )
    return [Section("published", "Beside published figures", lead, tuple(blocks))]


def _tuned_on(benchmark: Benchmark, runs: Sequence[Finetuning]) -> Iterator[OurRow]:
    for group in group_runs(_runs_of(benchmark, runs)):
        figures = {name: group.figure(name) for name in benchmark.figures}
        yield _tuned_row(benchmark, group, figures, len(group.runs))


def _folds_of(benchmark: Benchmark, runs: Sequence[Finetuning]) -> Iterator[OurRow]:
    """Sum the confusion matrices of a run on each split; of fewer runs there is no figure."""
    for group in group_folds(_runs_of(benchmark, runs), benchmark.evaluated_on):
        of_all = scene_figures(torch.tensor(group.confusion))
        figures = {name: Spread(of_all[name], None) for name in benchmark.figures}
        yield _tuned_row(benchmark, group, figures, num_seeds=1)


def _runs_of(benchmark: Benchmark, runs: Sequence[Finetuning]) -> list[Finetuning]:
    """Choose the runs that are meant for a benchmark; another fold of its data set is not."""
    other_folds = set(benchmark.splits) - set(benchmark.evaluated_on)
    return [
        run
        for run in runs
        if run.result.dataset in benchmark.datasets
        and run.result.task == benchmark.measured_by
        and run.result.evaluated_on not in other_folds
    ]


def _tuned_row(
    benchmark: Benchmark, group: RunGroup, figures: dict[str, Spread], num_seeds: int
) -> OurRow:
    result = group.result
    return OurRow(
        name=f"picpoint: {group.encoder}, {group.beginning}",
        runs=group.names,
        figures=figures,
        num_seeds=num_seeds,
        parameters_m=result.parameters / 1e6 if result.parameters else None,
        gflops=group.runs[0].gflops,
        remark="",
        checks=check_folds(benchmark, (run.result for run in group.runs)),
    )


def _probed_on(benchmark: Benchmark, probes: Sequence[Probed]) -> Iterator[OurRow]:
    for probe in probes:
        result = probe.result
        if benchmark.measured_by != "probe" or result.dataset not in benchmark.datasets:
            continue
        scores = [("pre-trained", result.pretrained), ("untrained", result.random_init)]
        for begun, score in scores:
            for solver, svm in score.svm.items() if score else ():
                yield OurRow(
                    name=f"picpoint: {result.encoder or 'encoder'}, {begun}, {solver}",
                    runs=probe.name,
                    figures={"accuracy": Spread(svm.accuracy, None)},
                    num_seeds=1,
                    parameters_m=result.parameters / 1e6 if result.parameters else None,
                    gflops=result.usual_flops / 1e9 if result.usual_flops else None,
                    remark="encoder alone",
                    checks=check_probe(benchmark, result),
                )


def _blocks_of(benchmark: Benchmark, ours: Sequence[OurRow]) -> Iterator[Block]:
    yield _table_of(benchmark, ours)
    main = next(iter(benchmark.figures))
    dots = [*_published_dots(benchmark, main), *_our_dots(ours, main)]
    if benchmark.has_own_costs and (charts := cost_charts(benchmark.figures[main], dots)):
        yield charts
    yield Details(f"Protocol of {benchmark.title}", (_protocol_table(benchmark, ours),))


def _table_of(benchmark: Benchmark, ours: Sequence[OurRow]) -> Table:
    columns = (
        Column("Method", is_long=True),
        *(Column(title, is_number=True) for title in benchmark.figures.values()),
        Column("Seeds", is_number=True),
        Column("M parameters", is_number=True),
        Column("GFLOPs", is_number=True),
        Column("Protocol", is_long=True),
        Column("Source"),
    )
    rows = [Row(tuple(_published_cells(benchmark, each))) for each in benchmark.rows]
    rows += [Row(tuple(_our_cells(benchmark, each)), is_ours=True) for each in ours]
    of_another = "" if benchmark.has_own_costs else f" {_OTHER_COSTS}"
    note = f"Protocol: {benchmark.protocol}.{of_another}"
    return Table(benchmark.title, columns, tuple(rows), note)


def _published_cells(benchmark: Benchmark, row: PublishedRow) -> Iterator[Cell]:
    method = row.method
    yield word(method.name)
    for name in benchmark.figures:
        yield _printed(row.figures.get(name))
    yield NOTHING
    yield _parameters(method.parameters_m, method.remark)
    yield number(method.gflops)
    yield word(row.note or "as printed")
    yield word(row.source or method.source)


def _our_cells(benchmark: Benchmark, row: OurRow) -> Iterator[Cell]:
    yield word(row.name, row.runs)
    for name in benchmark.figures:
        figure = row.figures.get(name, Spread(None, None))
        yield percent(figure.mean, figure.std)
    yield number(row.num_seeds)
    yield number(row.parameters_m, note=row.remark if row.parameters_m else "")
    yield number(row.gflops)
    told = differences(row.checks)
    yield word(f"differs in {told}" if told else "kept")
    yield word("this report")


def _parameters(millions: tuple[float, ...], remark: str) -> Cell:
    if not millions:
        return NOTHING
    return Cell(" to ".join(f"{each:g}" for each in millions), millions[-1], remark)


def _printed(figure: Printed | None) -> Cell:
    match figure:
        case None:
            return NOTHING
        case (mean, std):
            return Cell(f"{mean:g} \N{PLUS-MINUS SIGN} {std:g}", mean)
        case mean:
            return Cell(f"{mean:g}", mean)


def _mean(printed: Printed) -> float:
    return printed[0] if isinstance(printed, tuple) else printed


def _with_figure(benchmark: Benchmark, name: str) -> list[PublishedRow]:
    return [row for row in benchmark.rows if name in row.figures]


def _published_dots(benchmark: Benchmark, figure: str) -> Iterator[CostDot]:
    for row in benchmark.rows:
        printed, method = row.figures.get(figure), row.method
        if printed is not None:
            largest = method.parameters_m[-1] if method.parameters_m else None
            yield CostDot(method.name, _mean(printed), largest, method.gflops, is_ours=False)


def _our_dots(ours: Sequence[OurRow], figure: str) -> Iterator[CostDot]:
    for row in ours:
        mean = row.figures.get(figure, Spread(None, None)).mean
        if mean is not None:
            yield CostDot(row.name, 100 * mean, row.parameters_m, row.gflops, is_ours=True)


def _protocol_table(benchmark: Benchmark, ours: Sequence[OurRow]) -> Table:
    columns = [
        Column("Result", is_long=True),
        Column("Part"),
        Column("Protocol", is_long=True),
        Column("Here", is_long=True),
        Column("Kept"),
    ]
    rows = [
        [
            word(row.name, row.runs),
            word(check.part),
            word(check.asked),
            word(check.found),
            word("yes" if check.is_kept else "no"),
        ]
        for row in ours
        for check in row.checks
    ]
    return table(f"Protocol of {benchmark.title}", columns, rows)


def _of_no_benchmark(finetunings: Sequence[Finetuning], probes: Sequence[Probed]) -> list[str]:
    known = {name for benchmark in BENCHMARKS for name in benchmark.datasets}
    measured = [run.result.dataset for run in finetunings]
    measured += [probe.result.dataset for probe in probes]
    return [name for name in dict.fromkeys(measured) if name not in known]


def _not_run(benchmarks: Sequence[Benchmark]) -> Block:
    columns = [
        Column("Benchmark"),
        Column("Highest listed", is_number=True),
        Column("By", is_long=True),
        Column("Here"),
    ]
    rows: list[list[Cell]] = []
    for benchmark in benchmarks:
        main = next(iter(benchmark.figures))
        best = max(_with_figure(benchmark, main), key=lambda row: _mean(row.figures[main]))
        here = "not run" if benchmark.measured_by else "not run: picpoint has no such task yet"
        rows.append(
            [
                word(benchmark.title),
                _printed(best.figures[main]),
                word(best.method.name, best.source or best.method.source),
                word(here),
            ]
        )
    names = ", ".join(benchmark.title for benchmark in benchmarks) or "none"
    return Details(f"Not run: {len(benchmarks)}", (table(f"Not run: {names}", columns, rows),))
