"""What should whoever loads an encoder know of it? The model card, in the layout of the Hub."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml


@dataclass(frozen=True, slots=True)
class Card:
    """What is told of an encoder.

    Attributes:
        license: of the weights, as the Hub abbreviates it.
        encoder: name of its kind.
        parameters: how many numbers it has.
        settings: of the run that trained it, flat.
        commit: of the code that trained it.
        samples_seen: how far it was trained.
        results: rows of a table, the first of them its head; none if it was not evaluated.
        extent: how much data the results rest on.
    """

    license: str
    encoder: str
    parameters: int
    settings: Mapping[str, object]
    commit: str
    samples_seen: int
    results: Sequence[Sequence[str]] = ()
    extent: str = ""


def format_card(card: Card) -> str:
    """Write the card: front matter in YAML, then Markdown."""
    front = yaml.safe_dump(
        {
            "license": card.license,
            "library_name": "picpoint",
            "tags": ["point-cloud", "3d", "self-supervised-learning", card.encoder],
        },
        sort_keys=False,
    )
    results = "Not evaluated.\n"
    if card.results:
        results = f"{_table(card.results)}\n\nTop-1 in per cent, of {card.extent}.\n"
    settings = _table([("setting", "value"), *((key, str(v)) for key, v in card.settings.items())])
    return f"""---
{front}---

# {card.encoder}, pre-trained by picpoint

A point encoder of {card.parameters / 1e6:.2f} M parameters, pre-trained without labels: renders
of each shape, seen by a frozen image network, taught it by local point-pixel and global
shape-picture contrast (the method of Pic@Point, arXiv:2410.09519; these are not its authors'
weights).

```python
import picpoint

encoder = picpoint.load("this folder, or owner/name on the Hub")
features = encoder(points)  # (B, N, 3): in the unit sphere, y up, in farthest-point order
features.pooled, features.local
```

BatchNorm's statistics are the running averages of training.

## Results

{results}
## Training

{card.samples_seen} samples seen, at commit {card.commit}.

{settings}
"""


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[_escaped(cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Keep a text in its cell, and from being read as HTML or as Markdown."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return "".join(f"\\{c}" if c in "\\|`*_[]" else c for c in text)
