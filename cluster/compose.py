"""From YAML and overrides to the frozen dataclasses of the jobs, once, with every key checked.

Hydra composes; the dataclasses say which keys exist and what they hold.
"""

import dataclasses
import difflib
import importlib.resources
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from shards.secret_urls import REFUSAL, holds_secret

Job = TypeVar("Job")

# KEY=[...], and an element of such a list that is an override again.
_LIST = re.compile(r"([^=\[]+)=\s*\[(.*)\]\s*", re.DOTALL)
_ELEMENT = re.compile(r"\s*[+~]*[\w./@-]+=")

# The group whose options set keys anywhere: recipes of benchmarks, the paper's setting.
EXPERIMENT = "experiment"


class ConfigError(ValueError):
    """A config or an override is wrong; the message says which and names the nearest right one."""


def compose_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose `configs/NAME.yaml` with overrides.

    Raises:
        ConfigError: an override is malformed, or names a key or an option that does not exist.
    """
    # Hydra's own way of choosing one, where no default names the group.
    overrides = [
        text.removeprefix("+") if text.startswith(f"+{EXPERIMENT}=") else quote_elements(text)
        for text in overrides
    ]
    with initialize_config_module("configs", version_base="1.3"):
        parsed = _parse(overrides)
        try:
            # Which keys there are depends on the options chosen, as of point_encoder.
            chosen = [text for text, override in parsed if _is_group(override.key_or_group)]
            _check_keys(compose(name, chosen), [override for _, override in parsed])
            return compose(name, list(overrides))
        except MissingConfigException as error:
            options = ", ".join(error.options or [])
            raise ConfigError(
                f"no config {error.missing_cfg_file}; there are: {options}"
            ) from error
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_first_line(error)) from error


def load_job(job: type[Job], config: DictConfig) -> Job:
    """Turn a composed config into its dataclass.

    Raises:
        ConfigError: a key is unknown or missing, a value is of the wrong kind, or holds a URL with
            a secret, which the message does not repeat.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{_first_line(error)}; set it as KEY=VALUE") from error
    for key, value in flatten(plain):
        if holds_secret(str(value)):
            raise ConfigError(f"{key}: {REFUSAL}")
    known = [key for key, _ in flatten(plain)]
    try:
        return _adapter(job).validate_python(plain)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(fault, known) for fault in error.errors())) from error


def to_yaml(config: DictConfig) -> str:
    """Print a composed config."""
    return OmegaConf.to_yaml(config)


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """List the leaves of nested mappings as dotted keys."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _adapter(job: type[Job]) -> TypeAdapter[Job]:
    for nested in _dataclasses_in(job):
        nested.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(job)


def _dataclasses_in(annotation: Any) -> Iterator[Any]:  # noqa: ANN401 - any annotation
    if dataclasses.is_dataclass(annotation):
        yield annotation
        for inner in get_type_hints(annotation).values():
            yield from _dataclasses_in(inner)
    for argument in get_args(annotation):
        yield from _dataclasses_in(argument)


def _parse(overrides: Sequence[str]) -> list[tuple[str, Override]]:
    """Parse overrides; each beside its text."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(
            f"{_first_line(error)}; an override is KEY=VALUE, as in optim.lr=1e-3, and a value "
            "with other signs is quoted twice: 'out=\"a(b)\"'"
        ) from error
    return list(zip(overrides, parsed, strict=True))


def quote_elements(override: str) -> str:
    """Quote what is itself an override in the list that an override gives, as Hydra wants it.

    So `more=[pretrain.epochs=20,pretrain.seed=1]` may be written as it is meant. Other overrides
    are given back as they are.
    """
    if not (whole := _LIST.fullmatch(override)):
        return override
    key, inner = whole.groups()
    elements = [
        '"' + each.strip().replace('"', r"\"") + '"' if _ELEMENT.match(each) else each
        for each in _elements(inner)
    ]
    return f"{key}=[{','.join(elements)}]"


def _elements(inner: str) -> Iterator[str]:
    """Split the inside of a list at its own commas: not at those in brackets or quotes."""
    depth, quote, element = 0, "", ""
    for sign in inner:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        else:
            depth += (sign in "[{(") - (sign in "]})")
        if sign == "," and not depth and not quote:
            yield element
            element = ""
        else:
            element += sign
    yield element


def _is_group(key: str) -> bool:
    """Tell whether a key is a folder of configs, of which an override chooses a file."""
    return importlib.resources.files("configs").joinpath(key).is_dir()


def _check_keys(composed: DictConfig, overrides: Sequence[Override]) -> None:
    """Refuse an override whose key is neither in the composed config nor a config group."""
    known = {key for key, _ in flatten(OmegaConf.to_container(composed))}
    branches = {
        key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)
    }
    for override in overrides:
        key = override.key_or_group.replace("/", ".")
        # An experiment sets keys of others; that it may be chosen here, Hydra has said.
        if key not in known | branches | {EXPERIMENT}:
            raise ConfigError(_unknown(key, known | branches))


def _unknown(key: str, known: set[str]) -> str:
    # A slip may be in one part (optm.lr) or the part may stand elsewhere (lr for optim.lr).
    same_leaf = [other for other in sorted(known) if other.rsplit(".")[-1] == key.rsplit(".")[-1]]
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.5) or same_leaf
    return f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "; see --cfg")


def _explain(fault: ErrorDetails, known: Sequence[str]) -> str:
    key = _key_of([str(part) for part in fault["loc"]], known)
    match fault["type"]:
        case "unexpected_keyword_argument":
            return _unknown(key, set(known) - {key})
        case "missing" | "missing_argument":
            return f"{key} is missing; set it as {key}=VALUE"
        case "tuple_type":
            return f"{key}={fault['input']!r}: must be a list; write {key}=[{fault['input']}]"
        case "value_error":
            return fault["msg"].removeprefix("Value error, ")
        case _:
            return f"{key}={fault['input']!r}: {fault['msg'].lower()}"


def _key_of(parts: Sequence[str], known: Sequence[str]) -> str:
    """Join the parts of a place, without the name by which a union of dataclasses was decided."""
    key = ".".join(parts)
    if key not in known:
        shorter = (".".join([*parts[:i], *parts[i + 1 :]]) for i in range(len(parts)))
        key = next((other for other in shorter if other in known), key)
    return key


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
