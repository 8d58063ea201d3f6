"""The commands of the Valkey store, and the keys and values that they name.

Keys are `cellstate:` and the store's key. A value is as in the embedded store: version and purge time, 16 bytes, then the value's own. The
parts of an entry are the fields of one hash, whose key has the entry's in braces, so that a cluster puts both into one slot.
"""

import hashlib
import math
import struct

from handlers.stores.base import Change, Entry

Command = tuple[bytes, ...]
HEADER = struct.Struct("<Qd")  # version, purge_at; the value follows
VERSION = struct.Struct("<Q")
PREFIX = b"cellstate:"
ENTRIES = PREFIX + b"[^\0]*"  # the pattern of the entries' keys; a zero byte follows the prefix in the key of their parts
LATEST = 2**62  # milliseconds; the server takes no time beyond 2**63

# An absent key reads as the empty string, and so does an `expected` of None. For the parts: how many are to be removed, their numbers, then
# number and value of those to be written.
COMPARE_AND_SET = b"""
if redis.call('GETRANGE', KEYS[1], 0, 7) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
if #KEYS == 1 then return 1 end
local first = 5 + tonumber(ARGV[4])
for i = 5, first - 1 do redis.call('HDEL', KEYS[2], ARGV[i]) end
for i = first, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIREAT', KEYS[2], ARGV[3])
return 1
"""
SHA = hashlib.sha1(COMPARE_AND_SET).hexdigest().encode()
# The expiries of a slice of keys as one string: a tenth of the cost of one reply for each key.
SCAN_EXPIRIES = b"""
local found = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local expiries = {}
for i, key in ipairs(found[2]) do expiries[i] = redis.call('PEXPIRETIME', key) end
return {found[1], table.concat(expiries, ' ')}
"""


def compare_and_set(change: Change) -> Command:
    """Return the command that applies `change` and answers 1, or answers 0."""
    entry, parts, key = change.entry, change.parts, PREFIX + change.key
    expected = b"" if change.expected is None else VERSION.pack(change.expected)
    value, until = HEADER.pack(entry.version, entry.purge_at) + entry.value, b"%d" % milliseconds(entry.purge_at)
    if parts is None:
        return b"EVALSHA", SHA, b"1", key, expected, value, until
    removed = [b"%d" % number for number in parts.remove]
    put = [word for number, part in parts.put for word in (b"%d" % number, part)]
    return b"EVALSHA", SHA, b"2", key, parts_key(change.key), expected, value, until, b"%d" % len(removed), *removed, *put


def parts_key(key: bytes) -> bytes:
    """Return the key of the hash with the parts of the entry under `key`."""
    return PREFIX + b"\0parts{%b%b}" % (PREFIX, key)


def milliseconds(purge_at: float) -> int:
    """Round the time at which the server deletes an entry up to a millisecond: never before `purge_at`."""
    return max(1, math.ceil(min(purge_at * 1000, LATEST)))


def decode(value: bytes | None) -> Entry | None:
    """Decode an entry. Foreign bytes get version 0, which is no entry's, so they are never replaced."""
    if value is None:
        return None
    if len(value) < HEADER.size:
        return Entry(0, 0.0, value)
    version, purge_at = HEADER.unpack_from(value)
    return Entry(version, purge_at, value[HEADER.size :])
