"""How do figures get to Prometheus? As gauges of Ray, which each node shows beside its own.

Prometheus finds `picpoint_loss` as `ray_picpoint_loss`, with the run's name as the label `run`.
cluster/manifests/grafana.py draws what is named here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

_PREFIX = "picpoint_"
# What Ray puts before the name of every metric.
NAMESPACE = "ray_"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a run that dashboards show.

    Attributes:
        figure: its name in the log (picpoint/train/log.py) or, after `probe_`, of the probes.
        title: in words.
        unit: as Grafana names units.
    """

    figure: str
    title: str
    unit: str = "short"

    @property
    def name(self) -> str:
        """As Prometheus finds it."""
        return NAMESPACE + metric_name(self.figure)


# Of pre-training; fine-tuning has some of them.
METRICS = (
    Metric("samples_per_s", "Samples a second, all ranks"),
    Metric("data_wait", "Share of the time that rank 0 waits for data", "percentunit"),
    Metric("num_corrupt", "Slots left empty by corrupt samples"),
    Metric("loss", "Loss"),
    Metric("loss_local", "Local loss"),
    Metric("loss_pooled", "Global loss"),
    Metric("grad_norm", "Norm of the gradient"),
    Metric("lr", "Learning rate"),
    Metric("effective_rank", "Directions that embeddings use (near 1: collapse)"),
    Metric("probe_accuracy", "Accuracy of the probe while training", "percentunit"),
    Metric("eta_s", "Time to the end", "s"),
    Metric("step", "Steps made"),
)


def metric_name(figure: str) -> str:
    """Name the gauge of a figure."""
    return _PREFIX + figure


class RayMetrics:
    """A tracker: sets gauges of the Ray cluster that this process has joined.

    Until it has, and once it has left, figures are passed over: there is nobody to show them.

    Args:
        run: name of the run, a label of every gauge.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Gauge] = {}

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Set the gauges to the figures of one step."""
        import ray

        if not ray.is_initialized():
            return
        for figure, value in {"step": float(step), **figures}.items():
            if math.isfinite(value):
                self._gauge(figure).set(float(value), tags={"run": self._run})

    def close(self) -> None:
        """Nothing is held back."""

    def _gauge(self, figure: str) -> "Gauge":
        from ray.util.metrics import Gauge

        if figure not in self._gauges:
            titles = {metric.figure: metric.title for metric in METRICS}
            told = titles.get(figure, f"{figure} of the run's log")
            self._gauges[figure] = Gauge(metric_name(figure), told, ("run",))
        return self._gauges[figure]
