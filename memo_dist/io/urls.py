"""URLs that others wrote: what is no URL is no exception."""

from urllib.parse import SplitResult, urlsplit


def read_url(text: str) -> SplitResult | None:
    """The parts of a URL; None where no host or port can be read (``http://[a``, ``//a:99999``)."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts
