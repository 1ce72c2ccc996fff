"""Where else do a run's figures go? TensorBoard, MLflow, Weights & Biases, or Ray's metrics.

The training loop knows none of these: the command that follows the run's log passes each line on.
"""

import importlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from cluster.compose import ConfigError
from cluster.ray_metrics import RayMetrics

logger = logging.getLogger(__name__)

TrackerName = Literal["tensorboard", "mlflow", "wandb", "ray"]

# What tells where the run stands, and is no figure of its own.
_POSITION = ("step", "total_steps")
# What of a probe is a figure.
_PROBED = ("accuracy", "seconds")


class Tracker(Protocol):
    """What figures are sent to."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of one step."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class Trackers:
    """All trackers of a run; a context manager.

    Args:
        names: which ones.
        out: folder of the run; its last part is the run's name.
        settings: of the run, to be shown beside the figures.
        resumed_at: step from which figures are anew.
    """

    def __init__(
        self,
        names: Sequence[TrackerName],
        out: Path,
        settings: Mapping[str, object],
        resumed_at: int,
    ) -> None:
        self._last_step = resumed_at
        self._last_probe = resumed_at - 1  # of the step itself there is one only if it was lost
        self._trackers: dict[TrackerName, Tracker] = {}
        for name in names:
            self._trackers[name] = _open_tracker(name, out, settings, resumed_at)

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *error: object) -> None:
        for name in list(self._trackers):
            self._try(name, lambda tracker: tracker.close())

    def log(self, report: Mapping[str, float]) -> None:
        """Pass on one line of the log, once; a tracker that fails is left out from then on."""
        step = int(report["step"])
        if step <= self._last_step:
            return
        self._last_step = step
        self._send(step, {name: value for name, value in report.items() if name not in _POSITION})

    def log_probe(self, report: Mapping[str, Any]) -> None:
        """Pass on one line of the probes, once; it comes later than the log lines of its step."""
        step = int(report["step"])
        if step <= self._last_probe:
            return
        self._last_probe = step
        self._send(step, {f"probe_{name}": float(report[name]) for name in _PROBED})

    def _send(self, step: int, figures: Mapping[str, float]) -> None:
        for name in list(self._trackers):
            self._try(name, lambda tracker: tracker.log(step, figures))

    def _try(self, name: TrackerName, action: Callable[[Tracker], None]) -> None:
        try:
            action(self._trackers[name])
        except Exception as error:  # no figure elsewhere is worth a run
            del self._trackers[name]
            logger.warning("trackers=[%s] failed and gets no more figures: %s", name, error)


def _open_tracker(
    name: TrackerName, out: Path, settings: Mapping[str, object], resumed_at: int
) -> Tracker:
    match name:
        case "tensorboard":
            return _TensorBoard(out, resumed_at)
        case "mlflow":
            return _MlFlow(out, settings)
        case "wandb":
            return _WeightsAndBiases(out, settings)
        case "ray":
            return RayMetrics(out.name)


class _TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, out: Path, resumed_at: int) -> None:
        module = _import("tensorboardX", "tensorboard")
        self._writer = module.SummaryWriter(str(out / "tensorboard"), purge_step=resumed_at + 1)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _MlFlow:
    """A run of an MLflow server (MLFLOW_TRACKING_URI), or a folder beside the run's."""

    def __init__(self, out: Path, settings: Mapping[str, object]) -> None:
        self._mlflow = _import("mlflow", "mlflow")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            self._mlflow.set_tracking_uri(f"sqlite:///{(out / 'mlflow.db').resolve()}")
        self._mlflow.start_run(run_name=out.name)
        self._mlflow.log_params(_flat(settings))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(figures), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class _WeightsAndBiases:
    """A run of Weights & Biases; offline unless there is an account (WANDB_API_KEY)."""

    def __init__(self, out: Path, settings: Mapping[str, object]) -> None:
        wandb = _import("wandb", "wandb")
        has_account = "WANDB_API_KEY" in os.environ
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "picpoint"),
            name=out.name,
            dir=str(out),
            config=_flat(settings),
            mode=os.environ.get("WANDB_MODE", "online" if has_account else "offline"),
        )
        self._last_step = 0

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if step < self._last_step:  # it takes figures of the newest step only
            figures = {**figures, "probe_step": step}
        self._last_step = max(step, self._last_step)
        self._run.log(dict(figures), step=self._last_step)

    def close(self) -> None:
        self._run.finish()


def _import(module: str, tracker: str) -> Any:  # noqa: ANN401  (a module)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"trackers=[{tracker}]: {module} is not installed; pip install {module}, or leave the "
            "tracker out"
        ) from error


def _flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Name nested settings as overrides do: optim.lr."""
    flat: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")  # pyright: ignore[reportUnknownArgumentType]
        else:
            flat[f"{prefix}{name}"] = value
    return flat
