"""Hand-made results -> the figures that stand in the tables."""

import re
from dataclasses import replace

import pytest
from synthetic_results import confusion, finetuning, parts_run, probed

from picpoint.report.blocks import Details
from picpoint.report.classes import class_sections, confusion_grid
from picpoint.report.comparison import comparison_sections
from picpoint.report.cost_charts import PlaneCharts
from picpoint.report.finetuning import finetuning_sections
from picpoint.report.parts import CloudPairs, part_sections
from picpoint.report.probes import probe_sections
from picpoint.report.protocol import check_finetuning, check_probe, differences
from picpoint.report.published import BENCHMARKS, MODELNET40_FINE_TUNED, MODELNET40_SVM
from picpoint.report.run_groups import Finetuning
from picpoint.report.tables import NOTHING

DASH = NOTHING.text


def tables_of(sections):
    return {
        table.title: table for section in sections for b in section.blocks for table in b.tables
    }


def rows_of(table):
    titles = [column.title for column in table.columns]
    return [dict(zip(titles, (cell.text for cell in row.cells), strict=True)) for row in table.rows]


def test_seeds_are_averaged_and_pre_training_stands_beside_its_control() -> None:
    runs = [
        finetuning("scratch-0", accuracy=0.90, seed=0),
        finetuning("scratch-1", accuracy=0.92, seed=1),
        finetuning("tuned-0", accuracy=0.93, seed=0, weights="runs/pretrain"),
        finetuning("tuned-1", accuracy=0.97, seed=1, weights="runs/pretrain"),
    ]
    tables = tables_of(finetuning_sections(runs))
    scratch, tuned = rows_of(tables["Results of task classify"])
    assert (scratch["Seeds"], scratch["Accuracy"]) == ("2", "91.0 ± 1.4")
    assert (tuned["Begins"], tuned["Accuracy"]) == ("pre-trained", "95.0 ± 2.8")
    assert tuned["Best Accuracy"] == "96.0 ± 2.8"
    (control,) = rows_of(tables["Pre-trained beside from scratch"])
    assert control["Pre-trained"] == "95.0 ± 2.8"
    assert control["From scratch"] == "91.0 ± 1.4"
    assert control["Difference"] == "+4.0"


def test_a_control_has_the_same_settings_or_was_not_run() -> None:
    runs = [
        finetuning("scratch", votes=10),
        finetuning("tuned", weights="runs/pretrain"),
    ]
    rows = rows_of(tables_of(finetuning_sections(runs))["Pre-trained beside from scratch"])
    assert [row["Pre-trained"] for row in rows] == ["not run", "90.0"]
    assert [row["From scratch"] for row in rows] == ["90.0", "not run"]


def test_classes_by_hand() -> None:
    matrix = [[8, 2, 0], [0, 5, 0], [1, 0, 0]]
    runs = [finetuning(class_names=("a", "b", "c"), matrix=matrix)]
    (section,) = class_sections(runs)
    a, b, c = rows_of(section.blocks[0])
    assert (a["Clouds"], a["Recall, %"], a["Precision, %"], a["IoU, %"]) == (
        "10",
        "80.0",
        "88.9",  # 8 of 9
        "72.7",  # 8 of 11
    )
    assert a["Most taken for"] == "b (20.0 %)"
    assert (b["Recall, %"], b["Precision, %"], b["Most taken for"]) == ("100.0", "71.4", DASH)
    assert (c["Recall, %"], c["Precision, %"]) == ("0.0", DASH)
    # Seeds are counted together.
    both = class_sections([*runs, replace(runs[0], name="other")])
    assert rows_of(both[0].blocks[0])[0]["Clouds"] == "20"


def test_the_grid_has_a_cell_for_all_that_was_counted_and_no_other() -> None:
    grid = confusion_grid("t", ("a", "b", "c"), [[8, 2, 0], [0, 5, 0], [1, 0, 0]], "clouds")
    assert [cell.text for cell in grid.cells] == ["8", "2", "5", "1"]
    assert [cell.is_right for cell in grid.cells] == [True, False, True, False]
    assert grid.cells[1].told == "a, told b: 2 of 10 clouds (20.0%)"
    assert grid.cells[1].x == grid.gutter + grid.size
    assert grid.cells[1].y == grid.gutter
    assert max(cell.x + grid.size for cell in grid.cells) <= grid.side
    assert "13 of 16 clouds" in grid.summary
    # Of many classes, numbers could not be read.
    many = confusion_grid("t", [str(n) for n in range(40)], confusion(40).tolist(), "clouds")
    assert {cell.text for cell in many.cells} == {""}


def test_parts_have_their_classes_and_their_clouds() -> None:
    (section,) = part_sections([parts_run(), finetuning()])
    table, pairs = section.blocks
    assert [list(row.values()) for row in rows_of(table)] == [
        ["airplane", "85.0"],
        ["bag", "70.0"],
        ["cap", "77.5"],
    ]
    assert isinstance(pairs, CloudPairs)
    assert [pair.title for pair in pairs.pairs] == ["airplane", "bag", "cap"]
    assert [name for _, name in pairs.pairs[1].legend] == ["tail", "engine"]
    cloud = parts_run().examples[0]
    right = (cloud.truth == cloud.predicted).mean()
    assert pairs.pairs[0].told == f"{100 * right:.0f} % of points right"
    assert pairs.pairs[0].truth != pairs.pairs[0].predicted


def test_probes_stand_beside_the_untrained_network() -> None:
    rows = rows_of(tables_of(probe_sections([probed()]))["Probes"])
    assert [row["Measure"] for row in rows] == [
        "Linear SVM (LinearSVC)",
        "Linear SVM (SVC)",
        "k-NN",
        "5-way 10-shot",
        "5-way 20-shot, fine-tuned",
    ]
    figures = ["91.0", "92.0", "86.0", "93.0 ± 3.0", "95.0 ± 2.0"]
    assert [row["Pre-trained"] for row in rows] == figures
    assert {row["Difference"] for row in rows} == {"+11.0"}
    alone = replace(probed(), result=replace(probed().result, random_init=None))
    rows = rows_of(tables_of(probe_sections([alone]))["Probes"])
    assert {row["Random init"] for row in rows} == {"not run"}


def test_ours_stand_among_published_figures_with_the_protocol() -> None:
    runs = [finetuning(accuracy=0.93, voted=0.94), finetuning("short", **{"data.num_points": 512})]
    (section,) = comparison_sections(runs, [])
    table = tables_of([section])["ModelNet40, fine-tuned"]
    rows = rows_of(table)
    published = {row["Method"]: row for row in rows}
    assert published["Point-MAE"]["Accuracy"] == "93.2"
    assert published["Point-MAE"]["Voted"] == "93.8"
    assert published["ACT"]["Accuracy"] == DASH
    ours = [row for row, drawn in zip(rows, table.rows, strict=True) if drawn.is_ours]
    assert [row["Accuracy"] for row in ours] == ["93.0", "90.0"]
    assert [row["Voted"] for row in ours] == ["94.0", DASH]
    assert ours[0]["Protocol"] == "kept"
    assert ours[1]["Protocol"] == "differs in points: 512, not 1,024"
    assert ours[0]["M parameters"] == "1.81"
    # Every benchmark is either shown or said not to be run.
    (not_run,) = [b for b in section.blocks if isinstance(b, Details) and "Not run" in b.summary]
    named = {row["Benchmark"] for row in rows_of(not_run.tables[0])}
    assert named == {b.title for b in BENCHMARKS} - {"ModelNet40, fine-tuned"}


def test_costs_are_drawn_where_ours_is_known() -> None:
    (section,) = comparison_sections([finetuning()], [])
    (charts,) = [block for block in section.blocks if isinstance(block, PlaneCharts)]
    assert [chart.title for chart in charts.charts] == [
        "Accuracy over parameters",
        "Accuracy over GFLOPs",
    ]
    told = [mark.told for one in charts.charts[0].series for mark in one.dots]
    assert "picpoint: dgcnn, from scratch: 90.0 % at 1.81 millions of parameters" in told
    unknown = replace(finetuning(parameters=0), gflops=None)
    (section,) = comparison_sections([unknown], [])
    assert not any(isinstance(block, PlaneCharts) for block in section.blocks)


def area_run(area: int, dataset: str = "s3dis_rooms", **settings: object) -> Finetuning:
    told = {"data.test": [f"Area_{area}"], "data.digest": str(area), "data.num_points": 24_000}
    told["data.train"] = [f"Area_{other}" for other in range(1, 7) if other != area]
    rooms = (44, 40, 23, 49, 68, 48)[area - 1]
    run = finetuning(f"runs/{area}", encoder="pointnext_s", **{**told, **settings})
    result = replace(
        run.result,
        task="scenes",
        dataset=dataset,
        evaluated_on=f"Area_{area}",
        num_train=272 - rooms,
        num_evaluated=rooms,
        last={"miou": 0.1 * area},
        best={},
        class_names=(),
        part_names=("floor", "wall"),
        confusion=((area, 1), (0, area)),
    )
    return replace(run, result=result)


def test_six_areas_are_one_figure_of_their_summed_counts() -> None:
    runs = [area_run(area) for area in range(1, 7)]
    (section,) = comparison_sections(runs, [])
    tables = tables_of([section])
    (ours,) = [row for row in rows_of(tables["S3DIS, 6-fold, scenes"]) if row["Seeds"] == "1"]
    # 21 points of each thing told right, and 6 of the floor taken for wall.
    assert (ours["mIoU"], ours["Protocol"]) == (f"{100 * 21 / 27:.1f}", "kept")
    area_5 = rows_of(tables["S3DIS Area 5, scenes"])
    told = [(row["mIoU"], row["Protocol"]) for row in area_5 if row["Seeds"] == "1"]
    assert told == [("50.0", "kept")]  # the other areas are folds of the table beside it
    assert "S3DIS, 6-fold, blocks" not in tables


def protocol_of(runs: list[Finetuning], title: str) -> str:
    (section,) = comparison_sections(runs, [])
    (ours,) = [row for row in rows_of(tables_of([section])[title]) if row["Seeds"] == "1"]
    return ours["Protocol"]


def test_areas_trained_on_fewer_others_or_with_rooms_missing_kept_no_protocol() -> None:
    others = [area_run(area) for area in range(1, 7) if area != 3]
    fewer = area_run(3, **{"data.train": ["Area_1", "Area_2"]})
    told = protocol_of([*others, fewer], "S3DIS, 6-fold, scenes")
    assert told == (
        "differs in trained on: Area_1, Area_2, not Area_1, Area_2, Area_4, Area_5, Area_6"
    )
    part = replace(area_run(5), result=replace(area_run(5).result, num_train=2, num_evaluated=1))
    assert protocol_of([part], "S3DIS Area 5, scenes") == (
        "differs in clouds trained on and tested: 2 / 1, not 204 / 68"
    )
    leaking = area_run(5, **{"data.train": [f"Area_{area}" for area in range(1, 7)]})
    assert "trained on: Area_1, Area_2, Area_3, Area_4, Area_5" in protocol_of(
        [leaking], "S3DIS Area 5, scenes"
    )


def test_fewer_areas_or_unlike_runs_are_no_six_fold_figure() -> None:
    five = [area_run(area) for area in range(1, 6)]
    for runs in (five, [*five, area_run(6, seed=1)], [*five, area_run(6), area_run(6)]):
        (section,) = comparison_sections(runs, [])
        assert "S3DIS, 6-fold, scenes" not in tables_of([section])


def test_a_probe_stands_among_linear_machines_and_own_data_stand_alone() -> None:
    own = finetuning("own", dataset="folder")
    (section,) = comparison_sections([own], [probed()])
    rows = rows_of(tables_of([section])["ModelNet40, linear SVM"])
    ours = [row for row in rows if row["Source"] == "this report"]
    assert [row["Accuracy"] for row in ours] == ["91.0", "92.0", "80.0", "81.0"]
    assert "No figure is published on folder" in section.blocks[-2].text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"counts": (9843, 2468)}, ""),
        (
            {"counts": (100, 50)},
            "clouds trained on and tested: 100 / 50, not 9,840 / 2,468 or 9,843 / 2,468",
        ),
        ({"data.num_points": 2048}, "points: 2,048, not 1,024"),
        ({"data.label_share": 0.1}, "labels used: 10%, not all"),
        (
            {"evaluated_on": "validation of train"},
            "measured on: validation of train, not the test split",
        ),
    ],
)
def test_what_a_run_did_not_keep_is_named(changes: dict, told: str) -> None:
    checks = check_finetuning(MODELNET40_FINE_TUNED, finetuning(**changes).result)
    assert differences(checks) == told


def test_a_fixed_c_is_named() -> None:
    fixed = probed(frozen={"penalties": [0.1]}).result
    told = differences(check_probe(MODELNET40_SVM, fixed))
    assert told == "C: fixed at 0.1, not chosen by folds of the training clouds"
    assert differences(check_probe(MODELNET40_SVM, probed().result)) == ""


def test_published_figures_are_whole_and_sourced() -> None:
    for benchmark in BENCHMARKS:
        assert benchmark.rows
        assert benchmark.protocol
        for row in benchmark.rows:
            assert set(row.figures) <= set(benchmark.figures)
            assert row.figures
            for figure in row.figures.values():
                assert 30 < (figure[0] if isinstance(figure, tuple) else figure) < 100
            assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", row.source or row.method.source)
