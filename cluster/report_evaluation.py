"""What is an evaluation shown with? Its figures, logs, renders and thumbnails, read from disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import UInt8

from cluster.jobs.evaluate import RESULTS_FILE, encoded_file, load_run
from picpoint.data.pairs import evaluation_batches
from picpoint.data.views import choose_views, stored_views
from picpoint.evaluate.encoded import EncodedShapes
from picpoint.evaluate.results import Results, ResultsError, load_results
from picpoint.evaluate.stored import load_encoded
from picpoint.report.evaluation import Evaluation
from picpoint.report.neighbours import keys_shown
from picpoint.report.pictures import AnnotatedPicture
from picpoint.report.training_log import load_log
from picpoint.train.log import LOG_FILE
from picpoint.train.settings import PretrainConfig
from shards.codec import decode_picture
from shards.reader import Request, ShardReader


def read_evaluation(place: Path, num_sheet_shapes: int, num_queries: int) -> Evaluation:
    """Read an evaluation, and of its shards the pictures that it is shown with.

    Args:
        place: folder with results.json.
        num_sheet_shapes: held-out shapes on the contact sheet.
        num_queries: held-out shapes whose nearest neighbours are shown.

    Raises:
        ResultsError: there is no evaluation in that folder.
        ShardError: the shards cannot be read.
    """
    results = load_results(place / RESULTS_FILE)
    runs = _runs(results)
    config = load_run(runs[0])
    pair = load_encoded(encoded_file(str(place), config.seed))
    reader = ShardReader(config.data.shards)
    shown = keys_shown(pair.pretrained, pair.random_init, num_queries)
    return Evaluation(
        name=str(place),
        results=results,
        logs=tuple(load_log(run_dir / LOG_FILE, load_run(run_dir).seed) for run_dir in runs),
        views=_contact_sheet(reader, config, pair.pretrained, num_sheet_shapes),
        pretrained=pair.pretrained,
        random_init=pair.random_init,
        thumbnails=_thumbnails(reader, shown),
        num_queries=num_queries,
        config_yaml=yaml.safe_dump(dict(results.config), sort_keys=False),
    )


def _runs(results: Results) -> list[Path]:
    evaluated = results.config.get("evaluate")
    if not isinstance(evaluated, dict) or not evaluated.get("runs"):
        raise ResultsError("results.json names no runs; run picpoint evaluate again")
    return [Path(run_dir) for run_dir in evaluated["runs"]]


def _contact_sheet(
    reader: ShardReader, config: PretrainConfig, shapes: EncodedShapes, num_shapes: int
) -> tuple[AnnotatedPicture, ...]:
    """Take some held-out shapes, one per class while there are, from four sides each.

    The dots are the pixels of the points that a training step would have paired with that picture.
    """
    rows = shapes.probe_test
    _, first_of_class = np.unique(shapes.labels[rows], return_index=True)
    chosen = rows[np.sort(first_of_class)][:num_shapes]
    views = choose_views(stored_views(reader), config.data.rig, 0)[:4].tolist()
    row_of = _rows_of_keys(reader)
    stored = np.array([row_of[shapes.keys[row]] for row in chosen.tolist()], dtype=np.int64)
    batches = evaluation_batches(
        reader, stored, config.data, config.data.num_points, len(chosen), views
    )
    return tuple(
        AnnotatedPicture(
            picture=batch.pictures[row, slot].permute(1, 2, 0).contiguous().numpy(),
            pixels=batch.pixels[row, slot][batch.correspondence_mask[row, slot]].numpy(),
            caption=f"{shapes.class_names[shapes.labels[chosen[row]]]}, view {view}",
        )
        for batch in batches
        for row in range(len(chosen))
        for slot, view in enumerate(views)
    )


def _thumbnails(reader: ShardReader, keys: Sequence[str]) -> dict[str, UInt8[np.ndarray, "S S 3"]]:
    row_of = _rows_of_keys(reader)
    # The camera that looks most nearly from the front right, a little from above.
    view = int(np.argmax(stored_views(reader).cameras.positions @ np.array([1.0, 1.0, 2.0])))
    pictures = {}
    for key in keys:
        sample = reader.read(Request(row_of[key], (view,)))
        assert sample is not None, "a reader that fails on corrupt samples gives no None"
        pictures[key] = decode_picture(sample.pictures[view])
    return pictures


def _rows_of_keys(reader: ShardReader) -> dict[str, int]:
    """Find shapes in the manifest; an evaluation may tell of some of them only."""
    (stored,) = reader.manifest.read_texts("key")
    return {key: row for row, key in enumerate(stored)}
