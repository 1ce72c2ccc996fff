"""What is a page made of? Sections of blocks; each block names the template that draws it."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from picpoint.report.tables import Table


@runtime_checkable
class Block(Protocol):
    """Anything that stands in a section.

    Attributes:
        template: file among the templates, which is given the block as `block`.
    """

    template: ClassVar[str]

    @property
    def tables(self) -> tuple[Table, ...]:
        """What of it is a table: that stands in Markdown and JSON, too."""
        ...


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page under a heading of its own.

    Attributes:
        anchor: of the heading; each once on a page.
        title: of the heading.
        lead: what the reader is to know before.
        blocks: its content.
    """

    anchor: str
    title: str
    lead: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Some sentences.

    Attributes:
        text: those.
        heading: above them; "" for none.
    """

    template: ClassVar[str] = "paragraph.html"

    text: str
    heading: str = ""

    @property
    def tables(self) -> tuple[Table, ...]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks that are shown when asked for.

    Attributes:
        summary: what to ask for.
        blocks: what is shown.
    """

    template: ClassVar[str] = "details.html"

    summary: str
    blocks: tuple[Block, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """Those of its blocks."""
        return tuple(table for block in self.blocks for table in block.tables)


@dataclass(frozen=True, slots=True)
class Preformatted:
    """Text as it stands, such as a configuration."""

    template: ClassVar[str] = "preformatted.html"

    text: str

    @property
    def tables(self) -> tuple[Table, ...]:
        """None."""
        return ()
