"""What can be told of the images without building them: users, pins, and that nothing leaks in."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from cluster.clear_text import refuse_secrets
from cluster.manifests.source import HOME, RAY_VERSION, USER_ID, ImageName

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "cluster" / "images"
NAMES = get_args(ImageName)
LOCKS = {name: IMAGES / f"requirements-{name}.txt" for name in NAMES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    "train-cpu": ("encoders", "hub", "onnx"),
    "train-cuda": ("encoders", "hub", "onnx", "cuda"),
    "render": ("cuda",),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a Dockerfile: what it begins with, and its instructions."""

    base: str
    name: str
    steps: tuple[tuple[str, str], ...]

    def arguments(self, instruction: str) -> list[str]:
        return [text for word, text in self.steps if word == instruction]


def instructions(name: str) -> Iterator[tuple[str, str]]:
    text = (IMAGES / f"{name}.Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield word, rest.strip()


def stages(name: str) -> list[Stage]:
    """The parts of a Dockerfile, with every argument at its default."""
    found: list[Stage] = []
    arguments: dict[str, str] = {}
    for word, written in instructions(name):
        rest = re.sub(r"\$\{(\w+)\}", lambda match: arguments.get(match[1], match[0]), written)
        if word == "ARG":
            key, _, value = rest.partition("=")
            arguments[key] = value
        if word == "FROM":
            base, _, alias = rest.partition(" AS ")
            found.append(Stage(base, alias, ()))
        elif found:
            last = found[-1]
            found[-1] = Stage(last.base, last.name, (*last.steps, (word, rest)))
    return found


def pins(name: str) -> dict[str, Version]:
    found = {}
    for line in LOCKS[name].read_text().splitlines():
        if match := re.fullmatch(r"([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line):
            found[canonicalize_name(match[1])] = Version(match[2])
        else:
            assert line.startswith("#"), line
    for step in [step for stage in stages(name) for step in stage.arguments("RUN")]:
        if "whl/cpu" in step:
            for package, version in re.findall(r"(\w+)==(\S+)", step):
                found[package] = Version(version)
    return found


def pip_words(step: str) -> Iterator[list[str]]:
    for command in step.split("&&"):
        words = shlex.split(command)
        if words[:2] == ["pip", "install"]:
            yield words[2:]


def test_every_image_of_the_manifests_has_its_files_and_no_other_is_there() -> None:
    assert {path.stem for path in IMAGES.glob("*.Dockerfile")} == set(NAMES)
    assert {path.name for path in IMAGES.glob("*.txt")} == {path.name for path in LOCKS.values()}


@pytest.mark.parametrize("name", NAMES)
def test_every_base_is_pinned_by_digest(name: str) -> None:
    known: set[str] = set()
    for stage in stages(name):
        assert stage.base in known or re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", stage.base)
        assert ":latest" not in stage.base
        known.add(stage.name)


@pytest.mark.parametrize("name", NAMES)
def test_the_image_runs_as_the_user_of_the_manifests(name: str) -> None:
    final = stages(name)[-1]
    assert final.arguments("USER") == [f"{USER_ID}:{USER_ID}"]
    after = [word for word, _ in final.steps[[word for word, _ in final.steps].index("USER") :]]
    assert "RUN" not in after
    assert f"HOME={HOME}" in " ".join(final.arguments("ENV"))
    (setup,) = final.arguments("RUN")
    assert f"--uid {USER_ID}" in setup
    assert HOME in setup


@pytest.mark.parametrize("name", NAMES)
def test_what_builds_stays_behind(name: str) -> None:
    *_, build, final = stages(name)
    assert build.name
    assert final.arguments("COPY") == [f"--from={build.name} /opt/venv /opt/venv"]
    assert final.base != build.base or build.base.startswith("python:")
    (setup,) = final.arguments("RUN")
    assert "pip" not in setup.split()
    for tool in ("g++", "git", "nvcc"):
        assert tool not in setup.split()
    # Triton compiles at run time.
    assert ("gcc" in setup.split()) is (name == "train-cuda")


@pytest.mark.parametrize("name", NAMES)
def test_every_package_is_pinned(name: str) -> None:
    steps = [step for stage in stages(name) for step in stage.arguments("RUN")]
    installs = [words for step in steps for words in pip_words(step)]
    assert any("--require-hashes" in words for words in installs)
    for words in installs:
        assert "--no-deps" in words
        if "--require-hashes" in words:
            continue
        things = [w for w in words if not w.startswith("--") and not w.startswith("https://")]
        assert all("==" in thing or thing.startswith("/") for thing in things), words


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fetched_that_may_be_other_tomorrow(name: str) -> None:
    for word, rest in instructions(name):
        assert word != "ADD"
        assert "curl" not in rest.split()
        for repository in re.findall(r"fetch [^&]*https://\S+ (\S+)", rest):
            assert repository == "${KAOLIN_COMMIT}"
    text = (IMAGES / f"{name}.Dockerfile").read_text()
    for commit in re.findall(r"KAOLIN_COMMIT=(\S+)", text):
        assert re.fullmatch(r"[0-9a-f]{40}", commit)


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_is_an_argument_or_stays_in_the_environment(name: str) -> None:
    for word, rest in instructions(name):
        if word in ("ARG", "ENV"):
            pairs = re.findall(r"(\w+)=(\"[^\"]*\"|\S+)", rest)
            assert pairs
            refuse_secrets(dict(pairs), [])


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_named_is_copied_and_all_of_it_gets_past_dockerignore(name: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    for copied in [text for stage in stages(name) for text in stage.arguments("COPY")]:
        words = copied.split()
        if words[0].startswith("--from"):
            continue
        for source in words[:-1]:
            assert source not in (".", "./")
            assert (ROOT / source).exists()
            assert source.split("/")[0] in let_in
    assert let_in <= {path.name for path in ROOT.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_the_pins_are_what_the_project_asks_for(name: str) -> None:
    pinned = pins(name)
    wanted = list(PROJECT["dependencies"])
    for extra in EXTRAS[name]:
        wanted += PROJECT["optional-dependencies"][extra]
    for text in wanted:
        requirement = Requirement(text)
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), (text, version)


def test_all_images_have_the_same_ray_and_python() -> None:
    """Ray lets no other version join."""
    assert {str(pins(name)["ray"]) for name in NAMES} == {RAY_VERSION}
    bases = {stage.base for name in NAMES for stage in stages(name) if "python" in stage.base}
    assert len(bases) == 1
    assert "python:3.11." in bases.pop()


def test_training_has_the_torch_that_is_tested_and_rendering_one_that_kaolin_takes() -> None:
    tested = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()[1:]
    )
    for name in ("train-cpu", "train-cuda"):
        for package in ("torch", "torchvision"):
            assert pins(name)[package].base_version == tested[package]
    assert Version("2.10") <= pins("render")["torch"] < Version("2.13")


def test_images_that_ray_and_kubernetes_start_have_what_they_call() -> None:
    for name in NAMES:
        (setup,) = stages(name)[-1].arguments("RUN")
        assert {"rsync", "wget"} <= set(setup.split())
        # Both may start Ray from a login shell, in which Debian sets PATH anew.
        assert "'export PATH=/opt/venv/bin:$PATH' > /etc/profile.d/" in setup
    # Heads of `ray up` talk to the cloud.
    assert {"boto3", "google-api-python-client"} <= set(pins("train-cpu"))


def test_images_send_no_usage_statistics() -> None:
    for name in NAMES:
        assert "RAY_USAGE_STATS_ENABLED=0" in " ".join(stages(name)[-1].arguments("ENV"))


def test_images_for_gpus_ask_for_them() -> None:
    for name in NAMES:
        environment = " ".join(stages(name)[-1].arguments("ENV"))
        assert ("NVIDIA_VISIBLE_DEVICES=all" in environment) is (name != "train-cpu")
