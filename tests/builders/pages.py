"""Pages to put into dumps, and what a container says of every page."""

from crashbeam.vmcore.containers import Container
from crashbeam.vmcore.errors import PageError


def text_page(number: int, block_size: int = 4096) -> bytes:
    """A page that can be told from every other and that every codec shrinks."""
    return (f"page {number:#x} of memory. ".encode() * block_size)[:block_size]


def read_or_status(container: Container, pfn: int) -> bytes | str:
    """The page's bytes, or why it cannot be read."""
    try:
        return container.read_page(pfn)
    except PageError as error:
        return error.status.value
