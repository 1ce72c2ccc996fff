"""Licences: dependencies are found through others, named and judged; all data has its terms."""

import json
from dataclasses import dataclass, field
from email.message import Message
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import get_args

import pytest
from jsonschema import Draft7Validator

from cluster.app import main
from cluster.licences import Dependency, installed_dependencies, kind_of, licence_of
from cluster.sbom import sbom
from cluster.terms import TERMS
from picpoint.datasets.names import DATASET_NAMES
from picpoint.encoders.image_weights import NetworkName
from picpoint.render.renderer import RendererName

SCHEMA = json.loads(
    (Path(__file__).parents[1] / "assets" / "schemas" / "cyclonedx-1.6.json").read_text()
)
APACHE = "\n\n   Apache License\n   Version 2.0, January 2004\n"


@dataclass
class LicenceFile:
    text: str
    name: str = "LICENSE"
    parts: tuple[str, ...] = ("x-1.dist-info", "LICENSE")

    def read_text(self) -> str:
        return self.text


@dataclass
class MadeUp:
    """A distribution with only what is asked of it."""

    requires: list[str] = field(default_factory=list)
    fields: tuple[tuple[str, str], ...] = ()
    version: str = "1.0"
    files: tuple[LicenceFile, ...] = ()

    @property
    def metadata(self) -> Message:
        message = Message()
        for name, value in self.fields:
            message[name] = value
        return message


def finder(**packages: MadeUp):
    def find(name: str):
        try:
            return packages[name.replace("-", "_")]
        except KeyError:
            raise PackageNotFoundError(name) from None

    return find


@pytest.mark.parametrize(
    ("licence", "kind"),
    [
        ("MIT", "permissive"),
        ("BSD License", "permissive"),
        ("Apache-2.0 WITH LLVM-exception", "permissive"),
        ("MPL-2.0 AND MIT", "weak copyleft"),
        ("LGPL-3.0-or-later", "weak copyleft"),
        ("GNU Lesser General Public License v3 (LGPLv3)", "weak copyleft"),
        ("GPL-3.0-only", "copyleft"),
        ("GNU Affero General Public License v3", "copyleft"),
        ("CC-BY-SA-4.0", "copyleft"),
        ("GPL-2.0-only OR MIT", "permissive"),
        ("(GPL-2.0-only AND MIT) OR AGPL-3.0", "copyleft"),
        ("CC-BY-NC-4.0", "non-commercial"),
        ("MIT AND CC-BY-NC-SA-4.0", "non-commercial"),
        ("for non-commercial research only", "non-commercial"),
        ("NVIDIA Proprietary Software", "proprietary"),
        ("Other/Proprietary License", "proprietary"),
        ("Acme License", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_licence_is_judged_by_what_it_asks_for(licence, kind):
    assert kind_of(licence) == kind


@pytest.mark.parametrize(
    ("distribution", "named"),
    [
        (
            MadeUp(fields=(("License-Expression", "MIT OR X"), ("License", "no"))),
            ("MIT OR X", True),
        ),
        (
            MadeUp(
                fields=(
                    ("License", "see file"),
                    ("Classifier", "License :: OSI Approved :: MIT License"),
                    ("Classifier", "License :: DFSG approved"),
                    ("Classifier", "Programming Language :: Python"),
                )
            ),
            ("MIT License", False),
        ),
        (MadeUp(fields=(("License", "Apache 2.0"),)), ("Apache 2.0", False)),
        (MadeUp(fields=(("License", "GNU GENERAL PUBLIC LICENSE\n" + 99 * "x"),)), ("GPL", False)),
        (MadeUp(fields=(("License", "UNKNOWN"),), files=(LicenceFile(APACHE),)), ("Apache", False)),
        (MadeUp(), ("", False)),
    ],
)
def test_a_licence_is_named_from_the_best_source(distribution, named):
    assert licence_of(distribution) == named


def test_dependencies_are_followed_with_the_extras_that_are_asked_for():
    find = finder(
        root=MadeUp(
            ["Direct[fast]>=1", "absent", "tool; extra == 'test'", "gone; extra == 'test'"],
            (("Provides-Extra", "test"),),
        ),
        direct=MadeUp(
            ["deep", "speed; extra == 'fast'", "docs; extra == 'docs'", "old; python_version<'3'"]
        ),
        tool=MadeUp(),
        deep=MadeUp(["direct"]),
        speed=MadeUp(),
        docs=MadeUp(),
        old=MadeUp(),
    )
    found = installed_dependencies("root", find)
    assert [each.name for each in found] == ["root", "deep", "direct", "speed", "tool"]
    assert found[0].needs == ("direct", "tool")
    assert found[2].needs == ("deep", "speed")


def test_what_this_installation_has_is_listed_and_its_flags_are_known():
    """No dependency of picpoint is non-commercial, strongly copyleft or without a licence."""
    found = {each.name: each for each in installed_dependencies()}
    assert {"torch", "ray", "pyarrow", "hydra-core", "numpy", "aiohttp"} <= set(found)
    strict = {"copyleft", "proprietary", "non-commercial", "unknown"}
    # CUDA's libraries come with torch where its CUDA build is installed.
    flagged = [name for name, each in found.items() if each.kind in strict]
    assert [name for name in flagged if not name.startswith("nvidia-")] == []


def test_everything_that_can_be_loaded_by_name_has_its_terms():
    loaded = [each for terms in TERMS for each in terms.loaded_by]
    assert {f"image_encoder={name}" for name in get_args(NetworkName)} == {
        each for each in loaded if each.startswith("image_encoder=")
    }
    assert {f"data prepare {name}" for name in DATASET_NAMES} == {
        each for each in loaded if each.startswith("data prepare ")
    }
    assert len(loaded) == len(set(loaded)) + 1  # make data brings two
    assert "capture.renderer=nvdiffrast" in loaded
    assert "nvdiffrast" in get_args(RendererName)


def test_what_is_non_commercial_is_no_default():
    from cluster.compose import compose_config

    bound = [each for terms in TERMS if terms.use == "non-commercial" for each in terms.loaded_by]
    assert bound
    pretraining = compose_config("pretrain", ["out=o", "data.shards=s"])
    assert f"image_encoder={pretraining.image_encoder.name}" not in bound
    assert compose_config("render", ["out=o"]).capture.renderer == "auto"


def test_licenses_flags_what_binds(capsys):
    assert main(["doctor", "--licenses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["ok", "torch"] for line in lines)
    assert any(line.startswith("WEAK COPYLEFT   certifi") for line in lines)
    assert any(line.startswith("NON-COMMERCIAL  ScanObjectNN") for line in lines)
    assert any(line.startswith("NON-COMMERCIAL  nvdiffrast") for line in lines)


def test_the_bill_of_materials_is_cyclonedx(tmp_path, capsys):
    path = tmp_path / "sbom.json"
    assert main(["doctor", "--sbom", str(path)]) == 0
    assert "wrote" in capsys.readouterr().out
    bill = json.loads(path.read_text())
    assert [error.message for error in Draft7Validator(SCHEMA).iter_errors(bill)] == []
    assert bill["metadata"]["component"]["name"] == "picpoint"
    names = {each["name"] for each in bill["components"]}
    assert {"torch", "ray"} <= names
    refs = {each["bom-ref"] for each in [bill["metadata"]["component"], *bill["components"]]}
    assert {each["ref"] for each in bill["dependencies"]} == refs
    assert all(set(each["dependsOn"]) <= refs for each in bill["dependencies"])


def test_the_schema_notices_what_is_wrong():
    bill = sbom([Dependency("picpoint", "0.1+a", "Apache-2.0", True, ())])
    assert not list(Draft7Validator(SCHEMA).iter_errors(bill))
    wrong = bill | {"metadata": {"component": {"name": "x"}}}
    assert list(Draft7Validator(SCHEMA).iter_errors(wrong))


def test_a_bill_tells_expressions_from_names_and_is_the_same_again():
    dependencies = [
        Dependency("picpoint", "0.1+a", "apache-2.0 or mit", True, ("a", "b")),
        Dependency("a", "1", "Acme License", False, ()),
        Dependency("b", "2", "not SPDX at all", True, ()),
        Dependency("c", "3", "", False, ()),
    ]
    bill = sbom(dependencies)
    component = bill["metadata"]["component"]
    assert component["licenses"] == [{"expression": "Apache-2.0 OR MIT"}]
    assert component["purl"] == "pkg:pypi/picpoint@0.1%2Ba"
    assert [each.get("licenses") for each in bill["components"]] == [
        [{"license": {"name": "Acme License"}}],
        [{"license": {"name": "not SPDX at all"}}],
        None,
    ]
    assert bill["serialNumber"] == sbom(dependencies)["serialNumber"]
    assert bill["serialNumber"] != sbom(dependencies[:3])["serialNumber"]
