"""Which exit code does an error have? The table of the command line."""

from collections.abc import Iterator

from cluster.compose import ConfigError
from cluster.fleet import WorkerDiedError
from cluster.jobs_client import ClusterError
from cluster.record import RunExistsError
from cluster.study import StudyFailedError
from picpoint.data.dataset import DatasetError
from picpoint.data.views import NotStoredError
from picpoint.datasets.source import BrokenDataError, MissingDataError
from picpoint.encoders.image_weights import MissingWeightsError
from picpoint.evaluate.results import ResultsError
from picpoint.linear_probe import ProbeError
from picpoint.optional import MissingPackageError
from picpoint.render.limited import ChildStartError
from picpoint.render.meshes import MeshError
from picpoint.render.renderer import RendererMissingError
from picpoint.render.sources import SourceError
from picpoint.report.training_log import LogError
from picpoint.train.agreement import PrecisionError
from picpoint.train.checkpoint import CheckpointError
from picpoint.train.claim import ClaimError
from picpoint.train.finite import NonFiniteLossError
from picpoint.train.image_source import OtherFeaturesError
from picpoint.weights.encoder_file import EncoderFileError
from picpoint.weights.hub import HubError
from picpoint.weights.import_public import ImportRefusedError
from picpoint.weights.transfer import TransferRefusedError
from shards.errors import (
    AlreadyInStoreError,
    NotFoundInStoreError,
    NotWholeError,
    PlanError,
    ShardError,
    StoreError,
    TransientStoreError,
    UrlError,
)

FAULT = 1
USAGE = 2
MISSING = 3
INTERRUPTED = 130

# The first class that an error is an instance of decides.
_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (ConfigError, USAGE),
    (PlanError, USAGE),
    (NotStoredError, USAGE),
    (RunExistsError, USAGE),
    (DatasetError, USAGE),
    (MissingDataError, MISSING),
    (BrokenDataError, 4),
    (SourceError, MISSING),
    (UrlError, USAGE),
    (NotFoundInStoreError, MISSING),
    (NotWholeError, MISSING),
    (MissingWeightsError, MISSING),
    (MissingPackageError, MISSING),
    (RendererMissingError, MISSING),
    (ResultsError, MISSING),
    (LogError, 4),
    (AlreadyInStoreError, USAGE),
    (StoreError, 5),
    (ShardError, 4),
    (MeshError, 4),
    (ImportRefusedError, 4),
    (EncoderFileError, 4),
    (TransferRefusedError, USAGE),
    (HubError, 5),
    (ClaimError, USAGE),
    (CheckpointError, 6),
    (NonFiniteLossError, 6),
    (PrecisionError, USAGE),
    (OtherFeaturesError, USAGE),
    (ProbeError, 6),
    (StudyFailedError, 6),
    (OSError, 5),
    (WorkerDiedError, 5),
    (ClusterError, 5),
    (ChildStartError, 5),
    (KeyboardInterrupt, INTERRUPTED),
)


def exit_code(error: BaseException) -> tuple[int, str]:
    """Give the exit code of an error and the line to print of it.

    An error that Ray carried over from a worker counts as what it was there.
    """
    for inner in _unwrap(error):
        for kind, code in _CODES:
            if isinstance(inner, kind):
                return code, str(inner) or "stopped; the same command goes on from what is finished"
    last_line = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    return FAULT, f"{type(error).__name__}: {last_line[0]} (--traceback shows where)"


def would_fail_again(error: BaseException) -> bool:
    """Tell whether an error is of the settings or the data, not of lost processes or networks."""
    return any(_is_lasting(inner) for inner in _unwrap(error))


def _is_lasting(error: BaseException) -> bool:
    """Tell it by the class that decides the exit code: a missing weight file is an OSError, too."""
    kind = next((kind for kind, _ in _CODES if isinstance(error, kind)), None)
    of_the_moment = (None, WorkerDiedError, OSError)
    return kind not in of_the_moment and not isinstance(error, TransientStoreError)


def _unwrap(error: BaseException) -> Iterator[BaseException]:
    yield error
    carried = [
        *getattr(error, "worker_failures", {}).values(),
        getattr(error, "_base_exc", None),
        getattr(error, "cause", None),
        error.__cause__,
    ]
    for inner in carried:
        if isinstance(inner, BaseException) and inner is not error:
            yield from _unwrap(inner)
