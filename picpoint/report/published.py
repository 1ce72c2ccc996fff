"""What have others published, on which benchmark, by which protocol? What ours is held to.

All accuracies and overlaps are per cent, as printed in their sources. `accuracy_voted` is with
votes, which for most methods add about half a point. Where a source leaves its protocol open, the
row's note says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# A figure as printed: mean, or mean and deviation.
Printed = float | tuple[float, float]


@dataclass(frozen=True, slots=True)
class Method:
    """A published method.

    Attributes:
        name: of the method and its network.
        source: where its figures are printed.
        parameters_m: millions, the whole network; two numbers are a range; none if not printed.
        gflops: of a cloud forward; None if not printed.
        remark: what must be known of the cost.
    """

    name: str
    source: str
    parameters_m: tuple[float, ...] = ()
    gflops: float | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """A method's figures on one benchmark.

    Attributes:
        method: whose.
        figures: by name, as results of picpoint name them, per cent.
        note: what is unlike the protocol, or open.
        source: where they are printed, if not where the method's others are.
    """

    method: Method
    figures: Mapping[str, Printed]
    note: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A data set with a protocol.

    Attributes:
        title: data set and measure.
        datasets: names of prepared data sets that are it (`picpoint data prepare`).
        measured_by: `probe`, or the task of `picpoint finetune`; "" where picpoint has none.
        evaluated_on: splits that a run is measured on; of several, one run each, whose confusion
            matrices are summed. None named is the test split.
        splits: all there are, of which a run is trained on those that it is not measured on; none
            where a run is trained on what is called so.
        figures: name and title of each figure, the main one first.
        counts: clouds trained on and tested, of each version of the data set.
        num_points: of a cloud, as methods have it.
        protocol: in words.
        has_own_costs: parameters and FLOPs of the rows are of the networks that were measured here.
        rows: what was published.
    """

    title: str
    datasets: tuple[str, ...] = ()
    measured_by: str = ""
    evaluated_on: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    figures: Mapping[str, str]
    counts: tuple[tuple[int, int], ...] = ()
    num_points: tuple[int, ...] = ()
    protocol: str
    has_own_costs: bool = True
    rows: tuple[PublishedRow, ...] = field(default=())


PIC_AT_POINT = Method("Pic@Point", "arXiv:2410.09519")
CROSSPOINT = Method("CrossPoint, DGCNN", "arXiv:2203.00680", (0.62,), None, "encoder alone")
MM_POINT = Method("MM-Point, DGCNN", "arXiv:2402.10002")
DGCNN = Method("DGCNN, from scratch", "arXiv:1801.07829", (1.8,), 4.8)
DGCNN_RECIPE = Method("DGCNN, from scratch, PointNeXt's recipe", "arXiv:2206.04670", (1.8,), 4.8)
POINTNEXT_S = Method("PointNeXt-S, from scratch", "arXiv:2206.04670", (1.37,), 1.64)
POINTNEXT_S_64 = Method("PointNeXt-S, width 64, from scratch", "arXiv:2206.04670", (4.5,), 6.5)
POINTNEXT_S_PARTS = Method("PointNeXt-S, from scratch", "arXiv:2206.04670")
POINTNEXT_S_SCENES = Method("PointNeXt-S, from scratch", "arXiv:2206.04670", (0.79,), 3.64)
ULIP_2 = Method("PointNeXt-S, ULIP-2", "arXiv:2305.08275", (1.4,), 1.64)
POINT_BERT = Method("Point-BERT", "arXiv:2111.14819", (22.1,), 4.8)
POINT_MAE = Method("Point-MAE", "arXiv:2203.06604", (22.1,), 4.8)
ACT = Method("ACT", "arXiv:2212.08320", (22.1,), 4.8)
POINT_M2AE = Method("Point-M2AE", "arXiv:2205.14401", (12.9, 15.3), 3.6)
I2P_MAE = Method("I2P-MAE", "arXiv:2212.06785", (12.9, 15.3), 3.6)
RECON = Method("ReCon", "arXiv:2302.02318", (43.6,), 5.3)
VOTENET = Method("VoteNet", "arXiv:1904.09664")
SCANOBJECTNN_PAPER = "arXiv:1908.04616"

_MODELNET40 = ("modelnet40_h5", "modelnet40_resampled")
_MODELNET40_COUNTS = ((9840, 2468), (9843, 2468))
_OBJ_COUNTS = ((2309, 581),)
_SVM = {"accuracy": "Accuracy"}
_FINE_TUNED = {"accuracy": "Accuracy", "accuracy_voted": "Voted"}
_SVM_PROTOCOL = (
    "frozen global features of 1,024 points; a linear machine fitted on the training clouds, C "
    "chosen by folds of them"
)


def _of(method: Method, value: Printed, note: str = "", source: str = "") -> PublishedRow:
    return PublishedRow(method, {"accuracy": value}, note, source)


def _voted(method: Method, plain: float | None, voted: float | None = None) -> PublishedRow:
    both = {"accuracy": plain, "accuracy_voted": voted}
    return PublishedRow(method, {name: told for name, told in both.items() if told is not None})


def _miou(method: Method, of_class: float | None, of_instance: float) -> PublishedRow:
    both = {"class_miou": of_class, "instance_miou": of_instance}
    return PublishedRow(method, {name: told for name, told in both.items() if told is not None})


MODELNET40_SVM = Benchmark(
    title="ModelNet40, linear SVM",
    datasets=_MODELNET40,
    measured_by="probe",
    figures=_SVM,
    counts=_MODELNET40_COUNTS,
    num_points=(1024,),
    protocol=_SVM_PROTOCOL,
    rows=(
        _of(PIC_AT_POINT, 92.5, "the paper does not name the protocol; probably this one"),
        _of(CROSSPOINT, 91.2, "users of its code report 89.7 to 90.3"),
        _of(MM_POINT, 92.4),
        _of(POINT_BERT, 87.4),
        _of(POINT_MAE, 91.0),
        _of(POINT_M2AE, 92.9),
        _of(I2P_MAE, 93.35),
        _of(RECON, 93.4),
    ),
)
MODELNET40_FINE_TUNED = Benchmark(
    title="ModelNet40, fine-tuned",
    datasets=_MODELNET40,
    measured_by="classify",
    figures=_FINE_TUNED,
    counts=_MODELNET40_COUNTS,
    num_points=(1024,),
    protocol="the first 1,024 points, overall accuracy on the test split",
    rows=(
        _voted(DGCNN, 92.9),
        _voted(POINTNEXT_S, 93.2),
        _voted(POINTNEXT_S_64, 93.7),
        _voted(POINT_BERT, 92.7, 93.2),
        _voted(POINT_MAE, 93.2, 93.8),
        _voted(ACT, None, 93.7),
        _voted(POINT_M2AE, 93.4, 94.0),
        _voted(I2P_MAE, 93.7, 94.1),
        _voted(RECON, 94.5),
    ),
)
OBJ_BG_SVM = Benchmark(
    title="ScanObjectNN OBJ_BG, linear SVM",
    datasets=("scanobjectnn_obj_bg",),
    measured_by="probe",
    figures=_SVM,
    counts=_OBJ_COUNTS,
    num_points=(1024,),
    protocol=_SVM_PROTOCOL,
    rows=(
        _of(PIC_AT_POINT, 85.7, "the paper does not name the protocol; probably this one"),
        _of(CROSSPOINT, 81.7, "users of its code report 75.7"),
        _of(MM_POINT, 87.8, "its split is not confirmed"),
        _of(POINT_MAE, 77.7),
        _of(POINT_M2AE, 84.1),
        _of(I2P_MAE, 87.1),
    ),
)


def _scanobjectnn(
    split: str, counts: tuple[tuple[int, int], ...], rows: tuple[PublishedRow, ...]
) -> Benchmark:
    return Benchmark(
        title=f"ScanObjectNN {split}, fine-tuned",
        datasets=(f"scanobjectnn_{split.lower()}",),
        measured_by="classify",
        figures=_FINE_TUNED,
        counts=counts,
        num_points=(1024, 2048),
        protocol="1,024 or 2,048 points as the method has it, overall accuracy on the test split",
        rows=rows,
    )


OBJ_BG = _scanobjectnn(
    "OBJ_BG",
    _OBJ_COUNTS,
    (
        _of(DGCNN, 82.8, source=SCANOBJECTNN_PAPER),
        _of(POINT_BERT, 87.4),
        _of(POINT_MAE, 90.0),
        _of(ACT, 93.3),
        _of(POINT_M2AE, 91.2),
        _of(I2P_MAE, 94.2),
        _of(RECON, 95.4),
    ),
)
OBJ_ONLY = _scanobjectnn(
    "OBJ_ONLY",
    _OBJ_COUNTS,
    (
        _of(DGCNN, 86.2, source=SCANOBJECTNN_PAPER),
        _of(POINT_BERT, 88.1),
        _of(POINT_MAE, 88.3),
        _of(ACT, 91.9),
        _of(POINT_M2AE, 88.8),
        _of(I2P_MAE, 91.6),
        _of(RECON, 93.8),
    ),
)
PB_T50_RS = _scanobjectnn(
    "PB_T50_RS",
    ((11416, 2882),),
    (
        _of(DGCNN, 78.1, source=SCANOBJECTNN_PAPER),
        _of(DGCNN_RECIPE, 86.1),
        _of(POINTNEXT_S, (87.7, 0.4)),
        _of(ULIP_2, 91.5),
        _of(POINT_BERT, 83.1),
        _of(POINT_MAE, 85.2),
        _of(ACT, 88.2),
        _of(POINT_M2AE, 86.4),
        _of(I2P_MAE, 90.1),
        _of(RECON, 91.3),
    ),
)
SHAPENETPART = Benchmark(
    title="ShapeNetPart, parts",
    datasets=("shapenetpart_h5", "shapenetpart_text"),
    measured_by="parts",
    figures={"instance_miou": "Instance mIoU", "class_miou": "Class mIoU"},
    counts=((14007, 2874),),
    num_points=(2048,),
    protocol="trained on train and val; argmax over the parts of the object's class; a part that "
    "is neither there nor predicted counts 1",
    has_own_costs=False,
    rows=(
        _miou(PIC_AT_POINT, None, 85.8),
        _miou(CROSSPOINT, None, 85.5),
        _miou(DGCNN, 82.3, 85.2),
        _miou(POINTNEXT_S_PARTS, 84.4, 86.7),
        _miou(POINT_BERT, 84.1, 85.6),
        _miou(POINT_MAE, None, 86.1),
        _miou(POINT_M2AE, 84.9, 86.5),
        _miou(RECON, None, 86.4),
    ),
)
_AREAS = tuple(f"Area_{number}" for number in range(1, 7))
_ROOMS = dict(zip(_AREAS, (44, 40, 23, 49, 68, 48), strict=True))
S3DIS_AREA_5 = Benchmark(
    title="S3DIS Area 5, scenes",
    datasets=("s3dis_rooms",),
    measured_by="scenes",
    evaluated_on=("Area_5",),
    splits=_AREAS,
    figures={"miou": "mIoU"},
    counts=((204, 68),),
    protocol="whole rooms, every original point predicted; blocks are another benchmark",
    rows=(
        PublishedRow(POINTNEXT_S_SCENES, {"miou": (63.4, 0.8)}),
        PublishedRow(PIC_AT_POINT, {"miou": 63.6}),
        PublishedRow(ACT, {"miou": 61.2}),
    ),
)
S3DIS_SIX_FOLD = Benchmark(
    title="S3DIS, 6-fold, scenes",
    datasets=("s3dis_rooms",),
    measured_by="scenes",
    evaluated_on=_AREAS,
    splits=_AREAS,
    figures={"miou": "mIoU"},
    counts=tuple((272 - number, number) for number in _ROOMS.values()),
    protocol="whole rooms, every original point predicted; confusion matrices of all six areas "
    "summed",
    rows=(PublishedRow(POINTNEXT_S_SCENES, {"miou": 68.0}),),
)
S3DIS_BLOCKS_SIX_FOLD = Benchmark(
    title="S3DIS, 6-fold, blocks",
    datasets=("s3dis_blocks",),
    measured_by="scenes",
    evaluated_on=_AREAS,
    splits=_AREAS,
    figures={"miou": "mIoU"},
    num_points=(4096,),
    protocol="blocks of 4,096 points, which is another benchmark than whole rooms; confusion "
    "matrices of all six areas summed",
    rows=(PublishedRow(DGCNN, {"miou": 56.1}),),
)
_DETECTION = {"map_25": "mAP at 0.25", "map_50": "mAP at 0.5"}
SUN_RGBD = Benchmark(
    title="SUN RGB-D, detection",
    figures=_DETECTION,
    protocol="10 classes, oriented boxes, 20,000 points",
    rows=(PublishedRow(VOTENET, {"map_25": 57.7, "map_50": 32.9}),),
)
SCANNET = Benchmark(
    title="ScanNetV2, detection",
    figures=_DETECTION,
    protocol="18 classes",
    rows=(
        PublishedRow(VOTENET, {"map_25": 58.6, "map_50": 33.5}),
        PublishedRow(POINT_M2AE, {"map_25": 66.3, "map_50": 48.3}),
    ),
)

BENCHMARKS = (
    *(MODELNET40_SVM, MODELNET40_FINE_TUNED, OBJ_BG_SVM, OBJ_BG, OBJ_ONLY, PB_T50_RS),
    *(SHAPENETPART, S3DIS_AREA_5, S3DIS_SIX_FOLD, S3DIS_BLOCKS_SIX_FOLD, SUN_RGBD, SCANNET),
)
