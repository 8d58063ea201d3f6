"""Changes that mean the same for bytes and for letters. Each takes a source of chance and what is to be changed."""

from random import Random
from typing import TypeVar

Piece = TypeVar("Piece", str, bytes)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"  # of URL-safe base64, in its order


def junk(r: Random, like: Piece, length: int) -> Piece:
    return r.randbytes(length) if isinstance(like, bytes) else "".join(r.choices(LETTERS, k=length))


def piece_of(r: Random, s: Piece, most: int = 64) -> tuple[int, int]:
    """Where a piece of at least one element begins and ends."""
    start = r.randrange(len(s))
    return start, min(len(s), start + 1 + r.randrange(most))


def change_one(r: Random, s: Piece) -> Piece:
    at = r.randrange(len(s))
    return s[:at] + junk(r, s, 1) + s[at + 1 :]


def change_some(r: Random, s: Piece) -> Piece:
    for _ in range(r.randint(2, 8)):
        s = change_one(r, s)
    return s


def replace_range(r: Random, s: Piece) -> Piece:
    start, stop = piece_of(r, s)
    return s[:start] + junk(r, s, stop - start) + s[stop:]


def cut_the_end(r: Random, s: Piece) -> Piece:
    return s[: r.randrange(len(s))]


def cut_the_beginning(r: Random, s: Piece) -> Piece:
    return s[r.randint(1, len(s)) :]


def extend(r: Random, s: Piece) -> Piece:
    return s + junk(r, s, r.randint(1, 80))


def extend_at_the_front(r: Random, s: Piece) -> Piece:
    return junk(r, s, r.randint(1, 80)) + s


def insert_range(r: Random, s: Piece) -> Piece:
    at = r.randint(0, len(s))
    return s[:at] + junk(r, s, r.randint(1, 64)) + s[at:]


def delete_range(r: Random, s: Piece) -> Piece:
    start, stop = piece_of(r, s)
    return s[:start] + s[stop:]


def repeat_range(r: Random, s: Piece) -> Piece:
    start, stop = piece_of(r, s)
    return s[:stop] + s[start:]


def reverse_range(r: Random, s: Piece) -> Piece:
    start, stop = piece_of(r, s)
    return s[:start] + s[start:stop][::-1] + s[stop:]


def swap_blocks(r: Random, s: Piece) -> Piece:
    size = r.randint(1, len(s) // 3)
    first, second = sorted(r.sample(range(len(s) // size), 2))
    a, b = s[first * size : (first + 1) * size], s[second * size : (second + 1) * size]
    return s[: first * size] + b + s[(first + 1) * size : second * size] + a + s[(second + 1) * size :]


def twice(r: Random, s: Piece) -> Piece:
    return s + s


EDITS = (
    change_one, change_some, replace_range, cut_the_end, cut_the_beginning, extend, extend_at_the_front, insert_range, delete_range,
    repeat_range, reverse_range, swap_blocks, twice,
)  # fmt: skip
