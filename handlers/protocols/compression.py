"""Decodes bodies that a client compressed: `Content-Encoding: gzip`, up to the size that a body may have."""

import zlib

from msgspec.structs import replace

from handlers.errors import CellstateError, MalformedJson, TooLarge
from handlers.protocols.base import HttpRequest

HEADER = "content-encoding"
GZIP = 16 + zlib.MAX_WBITS  # for zlib: data with the head and the checksum of gzip


def decompressed(request: HttpRequest, limit: int) -> HttpRequest | CellstateError:
    """Return the request with its body decoded, or the error: a body of more than `limit` bytes is not decoded further than that."""
    encoding = request.headers.get(HEADER, "").strip().lower()
    if encoding in ("", "identity"):
        return request
    if encoding != "gzip":
        return MalformedJson(f"Content-Encoding: expected gzip, or none, got {encoding[:20]!r}")
    decoder = zlib.decompressobj(GZIP)
    try:
        body = decoder.decompress(request.body, limit + 1)
    except zlib.error as e:
        return MalformedJson(f"body: Content-Encoding says gzip, and it is no gzip data ({e})")
    if len(body) > limit:
        return TooLarge(f"body: more than {limit} bytes once decoded, at most {limit}")
    if not decoder.eof or decoder.unused_data:
        return MalformedJson("body: the gzip data is cut off, or more follows it; send one gzip member")
    return replace(request, body=body)
