"""What would a data set cost on many GPUs? Arithmetic on measured costs of a shape, and on guesses.

Every stage has several things that it must get done; these overlap, so the slowest one sets its
time and is called its bottleneck. What was measured stands in `Measured`, on one core of the
machine that measured; all that is assumed, in `Assumed` and `DataSet`. Not modelled: starting
machines, stragglers, restarts, traffic out of a cloud, and small batches filling a GPU badly, all
of which make it slower; and a disk cache of the shards, which makes it faster.
"""

import bisect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from benchmarks.record import Json
from benchmarks.simulated_ranks import Fabric, RankStep, simulate

_BYTES_PER_GB = 1e9
_S_PER_H = 3600.0


@dataclass(frozen=True, slots=True)
class DataSet:
    """A public collection of meshes; all but its size and its views is assumed.

    Attributes:
        name: as the field calls it.
        num_shapes: that are rendered.
        views: of each.
        mean_faces: triangles of a mesh; a few large ones make most of the mean.
        mesh_bytes: of a file with its textures, mean.
        max_global_batch: beyond which a larger batch would teach no faster.
        epochs: of pre-training.
    """

    name: str
    num_shapes: int
    views: int
    mean_faces: int
    mesh_bytes: float
    max_global_batch: int
    epochs: int


SHAPENET = DataSet("ShapeNet", 52_000, 20, 30_000, 0.6e6, 4_096, 100)
OBJAVERSE = DataSet("Objaverse", 800_000, 20, 50_000, 11e6, 16_384, 50)
OBJAVERSE_XL = DataSet("Objaverse-XL", 10_000_000, 20, 50_000, 5e6, 65_536, 20)


@dataclass(frozen=True, slots=True)
class Assumed:
    """What is guessed of machines, prices and stores; `--assume NAME=VALUE` changes one.

    Attributes:
        gpu_speedup_training: of a GPU over the measured core, in the point encoder's step.
        gpu_speedup_encoding: of a GPU over the measured core, in the frozen image encoder.
        core_speedup: of a core beside a GPU, or of one that renders, over the measured core.
        cores_per_gpu: that read and prepare data; rendering uses as many, without the GPU.
        gpus_per_node: that share a network adapter.
        node_bytes_per_s: between a node and the object store.
        shapes_per_gpu: of a step, at most; their activations must fit.
        ghost_batch: shapes that share BatchNorm statistics; a rank has at least one such group.
        shapes_per_shard: of rendered shards.
        store_gets_per_s: that the object store answers under one prefix.
        store_puts_per_s: likewise.
        usd_per_gpu_h: with its share of the node.
        usd_per_core_h: of machines that render.
        usd_per_1000_gets: of the object store.
        usd_per_1000_puts: of the object store.
        usd_per_gb_month: of the object store.
    """

    gpu_speedup_training: float = 100.0
    gpu_speedup_encoding: float = 100.0
    core_speedup: float = 1.0
    cores_per_gpu: float = 12.0
    gpus_per_node: int = 8
    node_bytes_per_s: float = 6e9
    shapes_per_gpu: int = 128
    ghost_batch: int = 32
    shapes_per_shard: int = 1_500
    store_gets_per_s: float = 5_500.0
    store_puts_per_s: float = 3_500.0
    usd_per_gpu_h: float = 2.5
    usd_per_core_h: float = 0.04
    usd_per_1000_gets: float = 0.0004
    usd_per_1000_puts: float = 0.005
    usd_per_gb_month: float = 0.023

    def replaced(self, changes: Mapping[str, str]) -> "Assumed":
        """Give the same with other values, as from a command line.

        Raises:
            ValueError: no such name, or no positive number.
        """
        known = asdict(self)
        for name, value in changes.items():
            if name not in known:
                raise ValueError(f"{name}: nothing of that name is assumed; try {', '.join(known)}")
            known[name] = type(known[name])(float(value))
            if not known[name] > 0:
                raise ValueError(f"{name}={value}: must be above 0")
        return Assumed(**known)


@dataclass(frozen=True, slots=True)
class Measured:
    """Costs of a shape on one core of the measuring machine.

    Attributes:
        render_cpu_s: of a demo shape, all its views, from file to shard.
        render_views: of such a shape.
        render_faces: mean of the demo's shapes.
        view_ms_by_faces: what a view costs, of meshes of some sizes; ascending.
        shard_bytes: of a shape in a shard.
        picture_cpu_s: decoding one.
        encode_cpu_s: the image encoder, of one picture.
        feature_bytes: kept features of a shape, all views.
        encode_requests: range reads that give all pictures of a shape.
        step_cpu_s: a pre-training step with kept features, a shape, data included.
        data_cpu_s: of it, reading, decoding and pairing.
        read_requests: range reads for a shape of a step.
        read_bytes: that these give.
        request_cpu_s: of a range read over a network.
        latent_width: of embeddings.
        views_per_step: of a shape.
        gradient_bytes: of all trainable parameters.
        statistics_bytes: of the BatchNorm sums.
    """

    render_cpu_s: float
    render_views: int
    render_faces: int
    view_ms_by_faces: tuple[tuple[int, float], ...]
    shard_bytes: float
    picture_cpu_s: float
    encode_cpu_s: float
    feature_bytes: float
    encode_requests: float
    step_cpu_s: float
    data_cpu_s: float
    read_requests: float
    read_bytes: float
    request_cpu_s: float
    latent_width: int
    views_per_step: int
    gradient_bytes: int
    statistics_bytes: int

    def view_ms(self, num_faces: int) -> float:
        """What a view of a mesh costs: between the measured sizes on a line, outside as the end."""
        faces, costs = zip(*self.view_ms_by_faces, strict=True)
        if num_faces <= faces[0]:
            return costs[0]
        above = min(bisect.bisect_left(faces, num_faces), len(faces) - 1)
        low, high = faces[above - 1], faces[above]
        share = min(1.0, (num_faces - low) / (high - low))
        return costs[above - 1] + share * (costs[above] - costs[above - 1])


def render(data: DataSet, measured: Measured, assumed: Assumed, num_gpus: int) -> dict[str, Json]:
    """Rendering, on as many cores as there are beside the GPUs."""
    cores = num_gpus * assumed.cores_per_gpu
    larger_ms = measured.view_ms(data.mean_faces) - measured.view_ms(measured.render_faces)
    of_view_s = measured.render_cpu_s / measured.render_views + 1e-3 * larger_ms
    puts = 2 * data.num_shapes / assumed.shapes_per_shard
    written = data.num_shapes * measured.shard_bytes * data.views / measured.render_views
    to_do = {
        "rendering": data.num_shapes * data.views * of_view_s / (cores * assumed.core_speedup),
        "network": (data.num_shapes * data.mesh_bytes + written) / _network(assumed, num_gpus),
        "requests": data.num_shapes / assumed.store_gets_per_s + puts / assumed.store_puts_per_s,
    }
    usd_per_h = cores * assumed.usd_per_core_h
    return _stage(to_do, usd_per_h, _usd_of_requests(assumed, data.num_shapes, puts))


def cache_features(
    data: DataSet, measured: Measured, assumed: Assumed, num_gpus: int
) -> dict[str, Json]:
    """The image encoder asked once of every picture."""
    pictures = data.num_shapes * data.views
    ratio = data.views / measured.render_views
    gets = data.num_shapes * measured.encode_requests
    puts = 2 * data.num_shapes / assumed.shapes_per_shard
    moved = data.num_shapes * ratio * (measured.shard_bytes + measured.feature_bytes)
    reading_s = pictures * measured.picture_cpu_s + gets * measured.request_cpu_s
    to_do = {
        "image encoder": pictures
        * measured.encode_cpu_s
        / (num_gpus * assumed.gpu_speedup_encoding),
        "reading and decoding": reading_s / _cores(assumed, num_gpus),
        "network": moved / _network(assumed, num_gpus),
        "requests": gets / assumed.store_gets_per_s + puts / assumed.store_puts_per_s,
    }
    usd_per_h = num_gpus * assumed.usd_per_gpu_h
    return _stage(to_do, usd_per_h, _usd_of_requests(assumed, gets, puts))


def pretrain(
    data: DataSet, measured: Measured, assumed: Assumed, fabric: Fabric, num_gpus: int
) -> dict[str, Json]:
    """All epochs with kept features; GPUs that the largest batch leaves without work cost, too."""
    working = min(num_gpus, data.max_global_batch // assumed.ghost_batch)
    shapes = min(assumed.shapes_per_gpu, data.max_global_batch // working)
    step = RankStep(
        compute_s=shapes * (measured.step_cpu_s - measured.data_cpu_s),
        shapes=shapes,
        views=measured.views_per_step,
        latent_width=measured.latent_width,
        gradient_bytes=measured.gradient_bytes,
        statistics_bytes=measured.statistics_bytes,
    )
    machines = replace(
        fabric, speedup=assumed.gpu_speedup_training, gpus_per_node=assumed.gpus_per_node
    )
    simulated = simulate(step, machines, working)
    samples = data.num_shapes * data.epochs
    gets = samples * measured.read_requests
    of_sample_s = measured.data_cpu_s + measured.read_requests * measured.request_cpu_s
    to_do = {
        f"step: {_slowest_part(simulated)}": samples / _number(simulated["samples_per_s"]),
        "reading and pairing": samples * of_sample_s / _cores(assumed, working),
        "network": samples * measured.read_bytes / _network(assumed, working),
        "requests": gets / assumed.store_gets_per_s,
    }
    usd_per_h = num_gpus * assumed.usd_per_gpu_h
    stage = _stage(to_do, usd_per_h, _usd_of_requests(assumed, gets, 0))
    return stage | {
        "working_gpus": working,
        "global_batch": working * shapes,
        "step_s": simulated["step_s"],
        "step_efficiency": simulated["efficiency"],
    }


def table(
    measured: Measured,
    assumed: Assumed,
    fabric: Fabric,
    data_sets: tuple[DataSet, ...] = (SHAPENET, OBJAVERSE, OBJAVERSE_XL),
    gpus: tuple[int, ...] = (1, 8, 64, 512),
) -> dict[str, Json]:
    """Give every stage of every data set on every number of GPUs, beside all that it rests on."""
    return {
        "is": "reckoned from measured costs of a shape, not measured at these sizes",
        "not_modelled": "starting, stragglers, restarts, traffic out, half-filled GPUs, disk cache",
        "assumed": asdict(assumed) | {"fabric": asdict(fabric)},
        "measured": asdict(measured),
        "data_sets": {
            data.name: {
                **asdict(data),
                **_storage(data, measured, assumed),
                "on_gpus": {
                    str(number): {
                        "render": render(data, measured, assumed, number),
                        "cache_features": cache_features(data, measured, assumed, number),
                        "pretrain": pretrain(data, measured, assumed, fabric, number),
                    }
                    for number in gpus
                },
            }
            for data in data_sets
        },
    }


def _storage(data: DataSet, measured: Measured, assumed: Assumed) -> dict[str, Json]:
    ratio = data.views / measured.render_views
    shards_gb = data.num_shapes * ratio * measured.shard_bytes / _BYTES_PER_GB
    features_gb = data.num_shapes * ratio * measured.feature_bytes / _BYTES_PER_GB
    return {
        "shards_gb": shards_gb,
        "features_gb": features_gb,
        "storage_usd_per_month": (shards_gb + features_gb) * assumed.usd_per_gb_month,
    }


def _stage(to_do: Mapping[str, float], usd_per_h: float, usd_more: float) -> dict[str, Json]:
    bottleneck = max(to_do, key=lambda name: to_do[name])
    hours = to_do[bottleneck] / _S_PER_H
    return {
        "hours": hours,
        "usd": hours * usd_per_h + usd_more,
        "usd_of_requests": usd_more,
        "bottleneck": bottleneck,
        "hours_by_cause": {name: seconds / _S_PER_H for name, seconds in to_do.items()},
    }


def _slowest_part(simulated: Mapping[str, Json]) -> str:
    parts = ("compute_s", "contrast_s", "gradients_s", "rows_s", "statistics_s")
    return max(parts, key=lambda name: _number(simulated[name])).removesuffix("_s")


def _number(value: Json) -> float:
    assert isinstance(value, int | float)
    return value


def _cores(assumed: Assumed, num_gpus: int) -> float:
    return num_gpus * assumed.cores_per_gpu * assumed.core_speedup


def _network(assumed: Assumed, num_gpus: int) -> float:
    return -(-num_gpus // assumed.gpus_per_node) * assumed.node_bytes_per_s


def _usd_of_requests(assumed: Assumed, gets: float, puts: float) -> float:
    return (gets * assumed.usd_per_1000_gets + puts * assumed.usd_per_1000_puts) / 1000
