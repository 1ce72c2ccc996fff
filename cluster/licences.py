"""Under which licences do picpoint's installed dependencies stand? What their metadata says.

Metadata speaks for a package, not for the libraries inside its wheel (SciPy's Fortran runtime,
Pillow's codecs, CUDA): look into the wheels before you ship them to others.
"""

import importlib.metadata
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import Distribution
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

Kind = Literal[
    "permissive", "weak copyleft", "copyleft", "unknown", "proprietary", "non-commercial"
]

# From the one that asks least; of `A AND B` the later one counts, of `A OR B` the earlier.
_SEVERITY: tuple[Kind, ...] = (
    *("permissive", "weak copyleft", "copyleft", "unknown", "proprietary", "non-commercial"),
)
# The first that is found in a licence's name.
_NAMES: tuple[tuple[Kind, str], ...] = (
    (
        "non-commercial",
        r"non-?commercial|\bcc-by-nc|\bpolyform-(noncommercial|strict)|research only",
    ),
    ("proprietary", r"proprietary|\beula\b|nvidia|all rights reserved$|\bsspl|busl"),
    ("weak copyleft", r"\blgpl|lesser general|\bmpl|mozilla public|\bepl-|eclipse public|\bcddl"),
    ("copyleft", r"\ba?gpl|gnu (affero )?general|\beupl|\bcc-by-sa|\bosl-"),
    (
        "permissive",
        r"\bmit\b|\bmit-|\b0?bsd|apache|\bpsf|python software foundation|\bisc\b|zlib|\bcc0|"
        r"\bcc-by-\d|unlicense|public domain|\bbsl-1|boost|hpnd|\bncsa\b|\bupl-",
    ),
)
# What a licence's text begins with or is known by, and its name.
_TEXTS = (
    ("GNU AFFERO GENERAL PUBLIC LICENSE", "AGPL"),
    ("GNU LESSER GENERAL PUBLIC LICENSE", "LGPL"),
    ("GNU GENERAL PUBLIC LICENSE", "GPL"),
    ("Mozilla Public License", "MPL"),
    ("Apache License", "Apache"),
    ("Permission is hereby granted, free of charge", "MIT"),
    ("Redistribution and use in source and binary forms", "BSD"),
)
_LONGEST_NAME = 60

Find = Callable[[str], Distribution]


@dataclass(frozen=True, slots=True)
class Dependency:
    """An installed distribution that picpoint needs, itself or through others.

    Attributes:
        name: canonical.
        version: installed.
        licence: as its metadata names it; "" where it does not.
        is_expression: the name is an SPDX expression, as the metadata claims.
        needs: canonical names of the installed distributions that it needs itself, sorted.
    """

    name: str
    version: str
    licence: str
    is_expression: bool
    needs: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """What the licence asks for."""
        return kind_of(self.licence)


def installed_dependencies(
    root: str = "picpoint", find: Find = importlib.metadata.distribution
) -> list[Dependency]:
    """List a distribution and all that it needs and is installed, sorted by name, the root first.

    Of its extras those requirements count that are installed; of the others' extras, those that
    are asked for.

    Raises:
        PackageNotFoundError: the root is not installed.
    """
    extras = set(find(root).metadata.get_all("Provides-Extra") or ())
    found: dict[str, Dependency] = {}
    asked: dict[str, set[str]] = {canonicalize_name(root): extras}
    waiting = [canonicalize_name(root)]
    while waiting:
        name = waiting.pop()
        distribution = find(name)
        needs: set[str] = set()
        for text in distribution.requires or ():
            requirement = Requirement(text)
            other = canonicalize_name(requirement.name)
            if not _applies(requirement, asked[name]) or not _is_installed(other, find):
                continue
            needs.add(other)
            if other not in asked or not requirement.extras <= asked[other]:
                asked.setdefault(other, set()).update(requirement.extras)
                waiting.append(other)
        licence, is_expression = licence_of(distribution)
        found[name] = Dependency(
            name, distribution.version, licence, is_expression, tuple(sorted(needs - {name}))
        )
    first = found.pop(canonicalize_name(root))
    return [first, *(found[name] for name in sorted(found))]


def licence_of(distribution: Distribution) -> tuple[str, bool]:
    """Name a distribution's licence, and tell whether that is an SPDX expression.

    In this order: the expression, the classifiers, the field if it holds a name, and what the text
    in the field or in a licence file is.
    """
    metadata = distribution.metadata
    if "License-Expression" in metadata:
        return metadata["License-Expression"], True
    classifiers = [
        each.rpartition("::")[2].strip()
        for each in metadata.get_all("Classifier") or ()
        if each.startswith("License ::")
    ]
    if named := [each for each in classifiers if kind_of(each) != "unknown"]:
        return " AND ".join(named), False
    told = metadata["License"].strip() if "License" in metadata else ""
    if told and len(told) <= _LONGEST_NAME and "\n" not in told and told != "UNKNOWN":
        return told, False
    texts = [told, *_licence_files(distribution)]
    return next(filter(None, map(_name_of_text, texts)), ""), False


def kind_of(licence: str) -> Kind:
    """Tell what a licence asks for, by its name or an SPDX expression without nested brackets."""
    choices = re.split(r"\s+OR\s+", licence.strip("() "))
    return _SEVERITY[min(_severity(choice) for choice in choices)]


def _severity(licences: str) -> int:
    names = re.split(r"\s+AND\s+", licences.strip("() "))
    return max(_SEVERITY.index(_kind_of_name(name)) for name in names)


def _kind_of_name(name: str) -> Kind:
    for kind, pattern in _NAMES:
        if re.search(pattern, name, re.IGNORECASE):
            return kind
    return "unknown"


def _name_of_text(text: str) -> str:
    return next((name for words, name in _TEXTS if words.lower() in text.lower()), "")


def _licence_files(distribution: Distribution) -> list[str]:
    names = [
        path
        for path in distribution.files or ()
        if re.fullmatch(r"(licen[cs]e|copying)(\..*)?", path.name, re.IGNORECASE)
        and path.parts[0].endswith(".dist-info")
    ]
    return [path.read_text() for path in names]


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": each}) for each in {"", *extras})


def _is_installed(name: str, find: Find) -> bool:
    try:
        find(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
