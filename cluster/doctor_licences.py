"""`picpoint doctor --licenses` and `--sbom FILE`: what is used, and what it asks for."""

from collections import Counter
from pathlib import Path

from cluster.licences import installed_dependencies
from cluster.sbom import write_sbom
from cluster.terms import TERMS

_FLAGS = {"any": "ok", "credit": "CREDIT", "non-commercial": "NON-COMMERCIAL", "yours": "?"}


def print_licences() -> int:
    """Print dependencies, then data and weights; what asks for something stands out."""
    dependencies = installed_dependencies()[1:]
    print(f"{len(dependencies)} installed dependencies, by what their metadata says")
    for each in sorted(dependencies, key=lambda each: (each.kind == "permissive", each.name)):
        flag = "ok" if each.kind == "permissive" else each.kind.upper()
        print(f"{flag:<15} {each.name + ' ' + each.version:<40} {each.licence or 'not said'}")
    print("\ndata, weights and renderers, loaded only when asked for")
    for terms in sorted(TERMS, key=lambda terms: terms.use != "non-commercial"):
        note = f"; {terms.note}" if terms.note else ""
        print(f"{_FLAGS[terms.use]:<15} {terms.what:<30} {terms.licence}{note}")
        print(f"{'':<15} by {', '.join(terms.loaded_by)}")
    counts = Counter(each.kind for each in dependencies)
    told = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
    print(f"\n{told}; wheels may hold libraries that their metadata does not name")
    return 0


def write_bill(path: str) -> int:
    """Write the bill of materials."""
    dependencies = installed_dependencies()
    write_sbom(dependencies, Path(path))
    print(f"wrote {path}: CycloneDX 1.6, {len(dependencies)} components")
    return 0
