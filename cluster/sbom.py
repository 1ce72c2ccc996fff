"""What is installed, as a bill of materials: CycloneDX 1.6 in JSON.

Of what metadata tells; libraries inside wheels are not listed (cluster/licences.py). The same
installation gives the same file, but for its date.
"""

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from cluster.licences import Dependency
from picpoint.publish import publish_text

_NAMESPACE = uuid.UUID("6f1f5bd2-6a1d-4b8e-9b6a-8d1f2f6f0b51")


def write_sbom(dependencies: Sequence[Dependency], path: Path) -> None:
    """Write a bill of materials, whole or not at all.

    Args:
        dependencies: as `installed_dependencies` gives them, the root first.
        path: of the file; an older one is replaced.
    """
    publish_text(json.dumps(sbom(dependencies), indent=1) + "\n", path)


def sbom(dependencies: Sequence[Dependency]) -> dict[str, object]:
    """Give a bill of materials as what JSON makes of it."""
    root, *others = dependencies
    refs = {each.name: _purl(each) for each in dependencies}
    serial = uuid.uuid5(_NAMESPACE, "\n".join(refs.values()))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": _component(root, "application"),
        },
        "components": [_component(each, "library") for each in others],
        "dependencies": [
            {"ref": refs[each.name], "dependsOn": [refs[name] for name in each.needs]}
            for each in dependencies
        ],
    }


def _component(each: Dependency, kind: str) -> dict[str, object]:
    component: dict[str, object] = {
        "type": kind,
        "bom-ref": _purl(each),
        "name": each.name,
        "version": each.version,
        "purl": _purl(each),
    }
    if each.licence:
        component["licenses"] = [_licence(each)]
    return component


def _licence(each: Dependency) -> dict[str, object]:
    """Give an SPDX expression where the metadata has one that is right, else a name."""
    if each.is_expression:
        try:
            return {"expression": str(canonicalize_license_expression(each.licence))}
        except InvalidLicenseExpression:
            pass
    return {"license": {"name": each.licence}}


def _purl(each: Dependency) -> str:
    return f"pkg:pypi/{each.name}@{each.version.replace('+', '%2B')}"
