"""Makes the schema of bills of materials from that of CycloneDX 1.6, which is Apache-2.0.

    python tests/assets/schemas/trim_sbom.py bom-1.6.schema.json

As trim.py: what picpoint's bills do not use is left out and not let through.
"""

import json
import sys
from pathlib import Path

from trim import keep, strict, write

BILL = (
    *("$schema", "bomFormat", "specVersion", "serialNumber", "version"),
    *("metadata", "components", "dependencies"),
)
COMPONENT = ("type", "bom-ref", "name", "version", "purl", "licenses")


def main() -> None:
    """Write the file."""
    bill = json.loads(Path(sys.argv[1]).read_text())
    definitions = bill["definitions"]
    keep(bill["properties"], BILL)
    keep(definitions["metadata"]["properties"], ("timestamp", "component"))
    keep(definitions["component"]["properties"], COMPONENT)
    keep(definitions["license"]["properties"], ("name",))
    keep(definitions["dependency"]["properties"], ("ref", "dependsOn"))
    del definitions["license"]["oneOf"], bill["$id"]
    definitions["license"]["required"] = ["name"]
    bill.pop("$schema")
    bill["$comment"] = (
        "Trimmed from https://github.com/CycloneDX/specification 1.6, Apache-2.0; see trim_sbom.py."
    )
    bill["definitions"] = {name: definitions[name] for name in sorted(reached(bill, definitions))}
    write("cyclonedx", "1.6", "CycloneDX/specification", strict(bill))


def reached(bill: dict, definitions: dict) -> set[str]:
    """Name the definitions that the schema refers to, at any remove."""
    found: set[str] = set()
    waiting: list[object] = [{key: value for key, value in bill.items() if key != "definitions"}]
    while waiting:
        match waiting.pop():
            case {"$ref": str(reference)}:
                name = reference.removeprefix("#/definitions/")
                if name not in found:
                    found.add(name)
                    waiting.append(definitions[name])
            case dict() as schema:
                waiting += schema.values()
            case list() as schemas:
                waiting += schemas
            case _:
                pass
    return found


if __name__ == "__main__":
    main()
