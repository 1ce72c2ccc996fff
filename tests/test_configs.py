"""Every config composes into its dataclass, and every wrong key or value is named."""

import dataclasses
import importlib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import configs
from cluster.app import _COMMANDS, main
from cluster.compose import ConfigError, compose_config, flatten, load_job, quote_elements
from picpoint.encoders.dgcnn import DgcnnConfig
from picpoint.encoders.pointnext import POINTNEXT_B, POINTNEXT_L, POINTNEXT_S, POINTNEXT_XL

ROOT = Path(configs.__file__).parent
# What a user must say, because no default can be right.
REQUIRED = {
    "cache_features": ["out=o", "shards=s"],
    "render": ["out=o"],
    "pretrain": ["out=o", "data.shards=s"],
    "finetune": ["out=o", "data.shards=s"],
    "probe": ["out=o", "data.shards=s", "weights=w"],
    "tune": ["out=o"],
    "evaluate": ["out=o", "runs=[r]"],
    "report": ["sources=[e]"],
    "export": ["run=r", "out=o", "license=other"],
    "reproduce": ["out=o", "meshes=m"],
    "demo": [],
}


# Groups, and options of groups, of other jobs than pre-training.
JOB_OF = {"fleet": "render", "data/clouds": "finetune", "study": "tune"}


def job_class(name: str) -> type:
    command = _COMMANDS[name.replace("_", "-")]
    return getattr(importlib.import_module(f"cluster.jobs.{name}"), command.job)


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_the_defaults_compose_into_the_job(name: str) -> None:
    job = load_job(job_class(name), compose_config(name, REQUIRED[name]))
    assert type(job) is job_class(name)


@pytest.mark.parametrize(
    "option",
    sorted(
        str(p.relative_to(ROOT).with_suffix(""))
        for p in ROOT.glob("*/*.yaml")
        if p.parent.name != "experiment"  # they set keys of others: test_experiments.py
    ),
)
def test_every_option_of_every_group_loads(option: str) -> None:
    group, name = option.split("/")
    command = JOB_OF.get(option, JOB_OF.get(group, "pretrain"))
    job = load_job(
        job_class(command), compose_config(command, [*REQUIRED[command], f"{group}={name}"])
    )
    stored = OmegaConf.load(ROOT / f"{option}.yaml")
    assert getattr(job, group) is not None
    if "name" in stored:
        assert getattr(job, group).name == stored["name"]


@pytest.mark.parametrize(
    "name", ["render", "cache_features", "pretrain", "finetune", "probe", "evaluate", "report"]
)
def test_yaml_states_every_field_of_the_dataclasses(name: str) -> None:
    """A field that YAML leaves out could not be overridden: Hydra knows only what YAML has."""
    config = compose_config(name, REQUIRED[name])
    job = load_job(job_class(name), config)
    in_yaml = {key for key, _ in flatten(OmegaConf.to_container(config))}
    in_job = {key for key, _ in flatten(dataclasses.asdict(job))}
    assert in_job == in_yaml


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optm.lr=1e-3", "'optim.lr'"),
        ("optim.l=1e-3", "'optim.lr'"),
        ("lr=1e-3", "'optim.lr'"),
        ("data.viws=12", "'data.views'"),
        ("+data.viws=12", "'data.views'"),
        ("point_encodr=dgcnn", "'point_encoder"),
        ("optim=lion", "adam"),
        ("optim.lr=fast", "optim.lr"),
        ("precision=fp8", "precision"),
        ("image_encoder.stride=7", "image_encoder"),
        ("nonsense", "KEY=VALUE"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_the_right_one(override: str, named: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_job(
            job_class("pretrain"), compose_config("pretrain", [*REQUIRED["pretrain"], override])
        )
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_value_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "data.shards=s"]) == 2
    assert "out" in capsys.readouterr().err


def test_overrides_reach_the_job() -> None:
    job = load_job(
        job_class("pretrain"),
        compose_config("pretrain", [*REQUIRED["pretrain"], "data.views=12", "optim.lr=3e-4"]),
    )
    assert job.data.views == 12
    assert job.optim.lr == 3e-4


@pytest.mark.parametrize(
    "name", ["dgcnn", "pointnext_s", "pointnext_b", "pointnext_l", "pointnext_xl"]
)
def test_yaml_states_every_field_of_a_point_encoder(name: str) -> None:
    config = compose_config("pretrain", [*REQUIRED["pretrain"], f"point_encoder={name}"])
    encoder = load_job(job_class("pretrain"), config).point_encoder
    assert set(dataclasses.asdict(encoder)) == set(OmegaConf.to_container(config.point_encoder))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("dgcnn", DgcnnConfig()),
        ("pointnext_s", POINTNEXT_S),
        ("pointnext_b", POINTNEXT_B),
        ("pointnext_l", POINTNEXT_L),
        ("pointnext_xl", POINTNEXT_XL),
    ],
)
def test_point_encoders_of_the_yaml_are_the_published_ones(name: str, published: object) -> None:
    config = compose_config("pretrain", [*REQUIRED["pretrain"], f"point_encoder={name}"])
    assert load_job(job_class("pretrain"), config).point_encoder == published


def test_keys_of_the_chosen_point_encoder_can_be_set() -> None:
    overrides = [*REQUIRED["pretrain"], "point_encoder=pointnext_s", "point_encoder.width=64"]
    job = load_job(job_class("pretrain"), compose_config("pretrain", overrides))
    assert job.point_encoder == dataclasses.replace(POINTNEXT_S, width=64)
    with pytest.raises(ConfigError, match=r"did you mean 'point_encoder\.width'"):
        compose_config("pretrain", [*overrides, "point_encoder.widths=[8]"])
    with pytest.raises(ConfigError, match="local_stage=9"):
        load_job(
            job_class("pretrain"),
            compose_config("pretrain", [*overrides, "point_encoder.local_stage=9"]),
        )
    with pytest.raises(ConfigError, match=r"point_encoder\.width='wide'"):
        load_job(
            job_class("pretrain"),
            compose_config("pretrain", [*overrides, "point_encoder.width=wide"]),
        )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("study.more=[pretrain.epochs=20]", ("pretrain.epochs=20",)),
        (
            "study.more=[pretrain.epochs=20, pretrain.point_encoder.widths=[8,8]]",
            ("pretrain.epochs=20", "pretrain.point_encoder.widths=[8,8]"),
        ),
        (
            "study.more=['pretrain.epochs=20',\"pretrain.seed=1\"]",
            ("pretrain.epochs=20", "pretrain.seed=1"),
        ),
        ('study.more=[pretrain.out="a, (b)"]', ('pretrain.out="a, (b)"',)),
        ("study.more=[]", ()),
    ],
)
def test_a_list_of_overrides_is_written_as_it_is_meant(
    written: str, meant: tuple[str, ...]
) -> None:
    job = load_job(job_class("tune"), compose_config("tune", [*REQUIRED["tune"], written]))
    assert job.study.more == meant


def test_lists_of_other_things_are_left_as_they_are() -> None:
    written = (
        "study.parameters=[{key: pretrain.seed, values: [0, 1]}]",
        "study.variants=[{name: a, overrides: ['pretrain.seed=1']}]",
        "data.train=[Area_1,Area_2]",
        "probe.every=3",
        "capture.rig.names=[ring_12_-22.5deg]",
    )
    assert tuple(map(quote_elements, written)) == written


def test_rigs_need_no_quotes() -> None:
    names = ["dodecahedron", "ring_12_-22.5deg", "random_16_seed7", "fibonacci_40"]
    overrides = ["out=o", f"capture.rig.names=[{','.join(names)}]"]
    job = load_job(job_class("render"), compose_config("render", overrides))
    assert job.capture.rig.names == tuple(names)
    rig = "file:mine.npz@0123456789ab"
    chosen = compose_config("pretrain", [*REQUIRED["pretrain"], f"data.rig={rig}"])
    assert load_job(job_class("pretrain"), chosen).data.rig == rig


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("capture.rig.name=octahedron", "'capture.rig.names'"),
        ("capture.rig.names=octahedron", "write capture.rig.names=[octahedron]"),
        ("capture.rig.names=[octahedrn]", "there are dodecahedron"),
        ("capture.rig.names=[file:nowhere.json]", "nowhere.json: cannot be read"),
        ("capture.rig.projection=parallel", "capture.rig.projection"),
    ],
)
def test_a_wrong_rig_is_an_error_that_names_the_right_ones(override: str, named: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_job(job_class("render"), compose_config("render", ["out=o", override]))
    assert named in str(raised.value)


def test_cfg_prints_what_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "out=somewhere", "--cfg"]) == 0
    printed = OmegaConf.create(capsys.readouterr().out)
    assert printed.out == "somewhere"
    assert printed.capture.rig.names == ["dodecahedron"]
