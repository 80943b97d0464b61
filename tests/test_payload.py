"""The frame format: what is written, and that nothing damaged or forged is taken for good."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyflow.errors import AuthenticationError, ConfigError, CorruptObjectError
from proxyflow.serialize.chunks import CHUNK, map_chunks
from proxyflow.serialize.digestcopy import digest_leaves
from proxyflow.serialize.layout import ALIGNMENT
from proxyflow.serialize.payload import Payload, pack
from proxyflow.serialize.unpacking import unpack

PRELUDE = struct.Struct("<4sBBBBIQ")
ROW = struct.Struct("<QQB16s")
SECRETS = [
    None,
    b"s",
    b"a secret of more than sixty-four bytes, as somebody might well choose to use",
]


def joined(payload: Payload) -> bytearray:
    data = bytearray().join(payload.frames)
    assert len(data) == payload.nbytes
    return data


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def forged(
    rows: list[tuple[int, int, int, bytes]],
    body: bytes = b"",
    *,
    magic: bytes = b"\x93PXF",
    version: int = 1,
    flags: int = 0,
    count: int | None = None,
    length: int | None = None,
) -> bytes:
    """Build a payload with a header whose checksum is right, whatever else is wrong with it."""
    size = PRELUDE.size + len(rows) * ROW.size + 16
    length = size + len(body) if length is None else length
    count = len(rows) if count is None else count
    header = PRELUDE.pack(magic, version, flags, 0, 0, count, length)
    header += b"".join(ROW.pack(*row) for row in rows)
    return header + xxhash.xxh3_128_digest(header) + body


def row(body: bytes, *, raw: int | None = None, codec: int = 0) -> tuple[int, int, int, bytes]:
    return len(body), len(body) if raw is None else raw, codec, xxhash.xxh3_128_digest(body)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    "size", [0, 1, 63, 64, 5000, CHUNK, CHUNK + 1, 3 * CHUNK + 7, 5 * CHUNK + 241]
)
def test_what_is_packed_is_unpacked(size: int, compress: bool, secret: bytes | None) -> None:
    """Every size around the limits of alignment, chunks and threads comes back as it was."""
    buffers = [memoryview(noise(size)), memoryview(b"ab" * (size // 2)), memoryview(b"")]
    data = joined(pack(5, [b"str", b"eam"], buffers, compress=compress, secret=secret))
    contents = unpack(data, secret=secret)
    assert contents.kind == 5
    assert contents.stream == b"stream"
    assert [bytes(buffer) for buffer in contents.buffers] == [bytes(b) for b in buffers]


@pytest.mark.parametrize("secret", SECRETS[:2])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    "size", [0, 1000, 200_000, CHUNK - 1, CHUNK, 3 * CHUNK + 7, 5 * CHUNK + 241]
)
def test_a_payload_that_is_copied_is_the_one_that_is_written(
    size: int, compress: bool, secret: bytes | None
) -> None:
    """Digesting while copying changes nothing, nor does what was in the memory before."""
    whole = noise(size)
    for parts in ([whole], [b"str", b"eam", memoryview(whole)[: size // 2]]):
        for buffers in ([], [memoryview(whole), memoryview(b"ab" * (size // 2)), memoryview(b"")]):
            written = pack(5, parts, buffers, compress=compress, secret=secret)
            data = joined(written)
            copied = pack(5, parts, buffers, compress=compress, secret=secret)
            for _ in ("unsealed", "sealed"):
                memory = bytearray(b"\xff" * len(data))
                copied.copy_into(memoryview(memory))
                assert memory == data
            assert copied.digest == written.digest
            assert joined(copied) == data


needs_c = pytest.mark.skipif(digest_leaves is None, reason="without the part in C")


def digests_of(source: memoryview, leaf: int) -> bytes:
    leaves = [source[at : at + leaf] for at in range(0, len(source), leaf)]
    return b"".join(map(xxhash.xxh3_128_digest, leaves))


@needs_c
@settings(max_examples=300, deadline=None)
@given(
    st.integers(241, 3000),
    st.integers(0, 5),
    st.integers(0, 3000),
    st.integers(0, 70),
    st.integers(0, 70),
    st.integers(-1, 9),
    st.booleans(),
    st.randoms(),
)
def test_digesting_leaves_and_copying_them(
    leaf: int,
    whole: int,
    rest: int,
    source_at: int,
    target_at: int,
    threads: int,
    narrow: bool,
    rng: random.Random,
) -> None:
    """The digests are those that xxhash finds, and nothing besides the target is written to."""
    assert digest_leaves is not None
    rest = min(rest, leaf) if rest >= 241 else 0
    size = leaf * whole + rest or leaf
    source = memoryview(rng.randbytes(source_at + size))[source_at:]
    expected = digests_of(source, leaf)
    assert digest_leaves(source, None, leaf, threads, narrow) == expected
    memory = bytearray(target_at + size + 70)
    with memoryview(memory)[target_at : target_at + size] as target:
        assert digest_leaves(source, target, leaf, threads, narrow) == expected
    assert memory == bytes(target_at) + source + bytes(70)


@needs_c
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("target_at", [0, 1, 16, 32])
def test_what_is_written_past_the_caches_is_all_there(target_at: int, narrow: bool) -> None:
    """Large memory is copied in a way of its own, with one thread and with several."""
    assert digest_leaves is not None
    source = memoryview(noise(9 << 20))
    for threads in (1, 4):
        memory = bytearray(target_at + len(source) + 1)
        with memoryview(memory)[target_at : target_at + len(source)] as target:
            digests = digest_leaves(source, target, CHUNK, threads, narrow)
        assert digests == digests_of(source, CHUNK)
        assert memory[:target_at] == bytes(target_at)
        assert memory[target_at:-1] == source
        assert memory[-1] == 0


@needs_c
def test_what_cannot_be_digested_in_leaves() -> None:
    """Small leaves, memory of another length and read-only memory are refused."""
    assert digest_leaves is not None
    for size, leaf in ((240, 1000), (1000, 240), (1100, 1000), (0, 1000), (1000, 0), (1000, -1)):
        with pytest.raises(ValueError, match=f"{size} bytes in leaves of {leaf}: .* 241"):
            digest_leaves(bytes(size), None, leaf, 1)
    for source, target in ((1000, 999), (999, 1000), (1000, 0)):
        with pytest.raises(ValueError, match=f"{source} bytes to {target}"):
            digest_leaves(bytes(source), memoryview(bytearray(target)), 5000, 1)
    with pytest.raises(BufferError):
        digest_leaves(bytes(1000), memoryview(bytes(1000)), 5000, 1)
    with pytest.raises(BufferError):
        digest_leaves(bytes(1000), memoryview(bytearray(2000))[::2], 5000, 1)


@needs_c
@pytest.mark.parametrize("threads", [1, 4])
def test_other_threads_go_on_while_memory_is_copied_and_digested(threads: int) -> None:
    """A thread that copies a large array does not keep the interpreter to itself."""
    assert digest_leaves is not None
    source = bytes(32 << 20)
    target = memoryview(bytearray(source))
    copying, finished = threading.Event(), threading.Event()

    def copy_often() -> None:
        copying.set()
        for _ in range(50):
            digest_leaves(source, target, CHUNK, threads)
        finished.set()

    interval = sys.getswitchinterval()
    # Nobody else gets a turn unless this one is given up.
    sys.setswitchinterval(1000)
    try:
        thread = threading.Thread(target=copy_often)
        thread.start()
        copying.wait()
        assert not finished.is_set()
    finally:
        sys.setswitchinterval(interval)
        thread.join()


def test_the_stream_may_come_in_any_number_of_pieces() -> None:
    """The pickler's pieces are one frame: how it was cut changes neither bytes nor digest."""
    whole = noise(2 * CHUNK + 11)
    pieces = [whole[:5], whole[5:70], b"", whole[70 : CHUNK + 9], whole[CHUNK + 9 :]]
    for secret in SECRETS:
        one, many = pack(0, [whole], [], secret=secret), pack(0, pieces, [], secret=secret)
        assert joined(one) == joined(many)
        assert one.digest == many.digest


def test_buffers_are_aligned_and_written_from_their_own_memory() -> None:
    """A mapped payload gives aligned arrays; writing one copies nothing."""
    memory = [bytearray(noise(size)) for size in (10, 1000, 64)]
    payload = pack(0, [b"stream"], [memoryview(m) for m in memory])
    position, found = 0, []
    for frame in payload.frames:
        owner = frame.obj if isinstance(frame, memoryview) else None
        if any(owner is m for m in memory):
            assert position % ALIGNMENT == 0
            found.append(owner)
        position += len(frame)
    assert len(found) == 3


def test_the_header_of_a_small_payload_is_small() -> None:
    """An object of 1 KiB carries less than 7 % of overhead."""
    assert pack(0, [bytes(1024)], []).nbytes == 1024 + 69


def test_the_digest_is_that_of_the_content() -> None:
    """Equal content is recognised, compressed or not; every part of it counts."""
    buffer = memoryview(b"abc" * 5000)
    base = pack(0, [b"stream"], [buffer])
    assert len(base.digest) == 16
    assert pack(0, [b"stream"], [buffer], compress=True).digest == base.digest
    others = [
        pack(1, [b"stream"], [buffer]),
        pack(0, [b"stream!"], [buffer]),
        pack(0, [b"stream"], [buffer[1:]]),
        pack(0, [b"stream"], [buffer[:1], buffer[1:]]),
        pack(0, [b"stream"], []),
        pack(0, [b"stream"], [buffer], secret=b"s"),
        pack(0, [b"stream"], [buffer], secret=b"t"),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 1 + len(others)
    again = pack(0, [b"stream"], [buffer], secret=b"s", compress=True)
    assert again.digest == others[5].digest


def test_views_are_writable_if_the_payload_is() -> None:
    """A private mapping gives arrays that can be changed, bytes those that cannot."""
    data = joined(pack(0, [b"s"], [memoryview(noise(100))]))
    assert not unpack(data).buffers[0].readonly
    assert unpack(bytes(data)).buffers[0].readonly
    packed = joined(pack(0, [b"s"], [memoryview(bytes(10_000))], compress=True))
    assert not unpack(bytes(packed)).buffers[0].readonly


def test_views_keep_a_mapping_open() -> None:
    """A mapping cannot be closed under a view, and can be once the view has gone."""
    data = joined(pack(0, [b"s"], [memoryview(b"buffer")]))
    mapping = mmap.mmap(-1, len(data))
    mapping[:] = bytes(data)
    contents = unpack(mapping)
    with pytest.raises(BufferError):
        mapping.close()
    assert contents.buffers[0] == b"buffer"
    del contents
    mapping.close()


def test_other_flat_memory_is_read_too() -> None:
    """Arrow and array memory comes as signed bytes; that makes no difference."""
    data = memoryview(joined(pack(0, [b"stream"], []))).cast("b")
    assert unpack(data).stream == b"stream"


# ---------------------------------------------------------------------------------- compression


def test_only_what_compresses_is_compressed() -> None:
    """Random bytes are neither enlarged nor copied; text shrinks; small frames are let be."""
    random_bytes = memoryview(noise(3 * CHUNK))
    text = memoryview(b"the quick brown fox " * 200_000)
    payload = pack(0, [b"s" * 3000], [random_bytes, text], compress=True)
    assert payload.frames[1] == b"s" * 3000
    assert any(f.obj is random_bytes.obj for f in payload.frames if isinstance(f, memoryview))
    assert payload.nbytes < len(random_bytes) + len(text) // 10
    contents = unpack(joined(payload))
    assert contents.buffers == [random_bytes, text]


def test_a_mixed_frame_is_compressed_where_it_pays() -> None:
    """The incompressible chunk of a frame stays as it is, the others shrink."""
    mixed = memoryview(noise(CHUNK) + bytes(2 * CHUNK))
    payload = pack(0, [b"s"], [mixed], compress=True)
    assert CHUNK < payload.nbytes < CHUNK + CHUNK // 10
    assert unpack(joined(payload)).buffers == [mixed]


def test_a_compressed_stream_of_many_pieces() -> None:
    """A stream in pieces is compressed as the whole it is."""
    pieces = [b"piece %d " % index * 100 for index in range(20_000)]
    payload = pack(0, pieces, [], compress=True)
    assert payload.nbytes < sum(map(len, pieces)) // 5
    assert unpack(joined(payload)).stream == b"".join(pieces)


# --------------------------------------------------------------------------------------- damage

DAMAGEABLE = {
    (compress, secret): bytes(
        joined(
            pack(
                0,
                [b"stream" * 20],
                [memoryview(b"buffer one" * 500), memoryview(noise(70)), memoryview(b"")],
                compress=compress,
                secret=secret,
            )
        )
    )
    for compress in (False, True)
    for secret in (None, b"secret")
}


@pytest.mark.parametrize(("compress", "secret"), DAMAGEABLE)
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_damage_is_noticed(compress: bool, secret: bytes | None, data: st.DataObject) -> None:
    """No flipped bit, no lost and no added byte goes unnoticed, or causes any other error."""
    good = DAMAGEABLE[compress, secret]
    how = data.draw(st.sampled_from(["flip", "truncate", "extend", "cut out"]))
    at = data.draw(st.integers(0, len(good) - 1))
    if how == "flip":
        bad = bytearray(good)
        bad[at] ^= data.draw(st.integers(1, 255))
    elif how == "truncate":
        bad = bytearray(good[:at])
    elif how == "extend":
        bad = bytearray(good + data.draw(st.binary(min_size=1, max_size=100)))
    else:
        bad = bytearray(good[:at] + good[at + data.draw(st.integers(1, 100)) :])
    with pytest.raises(CorruptObjectError):
        unpack(bad, secret=secret)


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_no_garbage_is_a_payload(garbage: bytes) -> None:
    """Whatever else lies under a key, it is refused with the one error callers expect."""
    for data in (garbage, b"\x93PXF" + garbage, b"\x93PXF\x01\x00\x00\x00" + garbage):
        with pytest.raises(CorruptObjectError):
            unpack(data)


def test_every_byte_of_a_small_payload_counts() -> None:
    """It is taken apart in a way of its own, which must let nothing pass."""
    data = b"".join(pack(0, [b"small ", b"stream"], []).frames)
    assert bytes(unpack(data).stream) == b"small stream"
    for at in range(len(data)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
            with pytest.raises((CorruptObjectError, AuthenticationError)):
                unpack(damaged)
    with pytest.raises(CorruptObjectError):
        unpack(data + b"x")


def test_without_verification_only_large_buffers_are_trusted() -> None:
    """verify=False overlooks damage within views handed out, and none elsewhere."""
    buffer = noise(500)
    good = joined(pack(0, [b"stream" * 9], [memoryview(buffer)]))
    start = good.index(buffer)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 0xFF
        if at < start:
            with pytest.raises(CorruptObjectError):
                unpack(bad, verify=False)
        else:
            assert unpack(bad, verify=False).buffers[0] != buffer


def test_compressed_buffers_are_always_verified() -> None:
    """They are interpreted to be read, so that verify=False does not spare them the check."""
    bad = joined(pack(0, [b"s"], [memoryview(b"ab" * 50_000)], compress=True))
    bad[-1] ^= 1
    with pytest.raises(CorruptObjectError, match="frame 1 is damaged"):
        unpack(bad, verify=False)


# -------------------------------------------------------------------------------------- forgery


def test_headers_that_make_no_sense_are_refused_with_a_reason() -> None:
    """A header with a right checksum and wrong numbers reads nothing beyond the payload."""
    huge = 2**63
    zeros = row(bytes(100))
    cases = [
        (forged([row(b"abc")], b"abc", magic=b"\x80\x05ab"), "not a payload: starts with"),
        (forged([row(b"abc")], b"abc", version=2), "format version 2, this proxyflow reads"),
        (forged([row(b"abc")], b"abc", flags=2), "unknown flags 0x02"),
        (forged([]), "no frames"),
        (forged([row(b"abc")], b"abc", count=2**32 - 1), "cut off within its header"),
        (forged([row(b"abc")], b"abc", length=huge), f"instead of {huge}"),
        (forged([row(b"abc")], b"ab"), r"the frames end at byte \d+ of"),
        (forged([row(b"abc")], b"abcd"), r"the frames end at byte \d+ of"),
        (forged([(huge, huge, 0, bytes(16))], b"abc"), "the frames end at byte"),
        (forged([(2**64 - 1, 2**64 - 1, 0, bytes(16))] * 3, b"abc"), "the frames end at byte"),
        (forged([row(b"abc", raw=4)], b"abc"), "frame 0 is not compressed, but 3 bytes instead"),
        (forged([row(b"abc", codec=9)], b"abc"), "frame 0 has unknown codec 9"),
        (forged([row(b"abc", raw=huge, codec=1)], b"abc"), "3 compressed bytes cannot hold"),
        (forged([row(b"abc", raw=500, codec=1)], b"abc"), "too few for a table of 1 blocks"),
        (forged([(100, 2000, 1, zeros[3])], bytes(100)), "the blocks take 0 of 96 bytes"),
    ]
    for data, reason in cases:
        with pytest.raises(CorruptObjectError, match=reason):
            unpack(data)


@pytest.mark.parametrize(
    ("block", "raw", "reason"),
    [
        (b"\xff" * 40, 4000, "not an lz4 block"),
        (b"\x50hello", 6, None),
        (b"\x50hello", 8, "holds 5 bytes instead of 8"),
        (b"\x50hello", 4, "not an lz4 block"),
    ],
)
def test_blocks_must_hold_what_the_header_says(block: bytes, raw: int, reason: str | None) -> None:
    """A decompression bomb is stopped at the recorded length, a short block is no block."""
    body = struct.pack("<I", len(block)) + block
    data = forged([row(body, raw=raw, codec=1)], body)
    if reason is None:
        assert unpack(data).stream == block
    else:
        with pytest.raises(CorruptObjectError, match=f"frame 0 cannot be decompressed: .*{reason}"):
            unpack(data)


def test_a_bad_block_found_by_a_thread_is_reported_to_the_caller() -> None:
    """What a helping thread trips over is raised where the payload was asked for."""
    blocks = [bytes(CHUNK)] * 11 + [b"\x50hello"]
    body = struct.pack("<12I", *map(len, blocks)) + b"".join(blocks)
    chunks = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
    digest = xxhash.xxh3_128_digest(b"".join(map(xxhash.xxh3_128_digest, chunks)))
    with pytest.raises(CorruptObjectError, match="holds 5 bytes instead of 9"):
        unpack(forged([(len(body), 11 * CHUNK + 9, 1, digest)], body))


def test_gaps_hold_nothing() -> None:
    """Bytes between frames, which no digest covers, cannot carry anything."""
    data = joined(pack(0, [b"stream"], [memoryview(b"buffer")]))
    gap = data.index(b"stream") + len(b"stream")
    assert gap % ALIGNMENT
    data[gap] = 1
    with pytest.raises(CorruptObjectError, match="gap before frame 1"):
        unpack(data)


# -------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize("size", [10, 3 * CHUNK + 5])
def test_only_the_secret_opens_an_authenticated_payload(size: int) -> None:
    """Neither another secret nor none will do, and the message says what would."""
    data = joined(pack(0, [b"stream"], [memoryview(noise(size))], secret=b"right"))
    assert unpack(data, secret=b"right").stream == b"stream"
    with pytest.raises(AuthenticationError, match="written with another secret"):
        unpack(data, secret=b"wrong")
    with pytest.raises(AuthenticationError, match="open the store with the secret"):
        unpack(data)
    with pytest.raises(AuthenticationError, match="anybody may have written it"):
        unpack(joined(pack(0, [b"stream"], [])), secret=b"right")


def test_chunks_cannot_be_swapped_under_a_mac() -> None:
    """A chunk's MAC holds at its own place only, nor is one frame's good for another."""
    one, two = noise(CHUNK, 1), noise(CHUNK, 2)
    data = joined(pack(0, [b"s"], [memoryview(one + two), memoryview(two + one)], secret=b"k"))
    start = data.index(one[:100])
    swapped = data.copy()
    swapped[start : start + 2 * CHUNK] = two + one
    with pytest.raises(AuthenticationError, match="frame 1"):
        unpack(swapped, verify=False, secret=b"k")


def test_an_empty_secret_is_no_secret() -> None:
    """A key of no bytes would authenticate whatever anybody writes."""
    with pytest.raises(ConfigError, match="the secret is empty"):
        pack(0, [b"s"], [], secret=b"")


# ------------------------------------------------------------------------- threads and processes


def test_many_threads_pack_and_unpack_at_once() -> None:
    """Payloads being made at the same time do not get into each other's digests."""
    contents = [noise(5 * CHUNK // 2 + seed, seed) for seed in range(4)]

    def round_trip(index: int) -> bool:
        content = contents[index % 4]
        secret = b"k" if index % 2 else None
        data = joined(pack(0, [b"s"], [memoryview(content)], compress=True, secret=secret))
        return bytes(unpack(data, secret=secret).buffers[0]) == content

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(round_trip, range(12)))


def _pack_in_child() -> None:
    content = bytes(4 * CHUNK)
    data = b"".join(pack(0, [b"s"], [memoryview(content)], secret=b"k").frames)
    os._exit(0 if unpack(data, secret=b"k").buffers[0] == content else 1)


def test_a_forked_child_works_large_buffers_like_its_parent() -> None:
    """Nothing that threads need is lost or locked by a fork, even one amid the work."""
    content = memoryview(bytes(8 * CHUNK))
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            assert pack(0, [b"s"], [content]).digest

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        children = [
            multiprocessing.get_context("fork").Process(target=_pack_in_child) for _ in range(5)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
        assert [child.exitcode for child in children] == [0] * 5
    finally:
        stop.set()
        busy.join()
        for child in children:
            child.kill()
            child.join()


def test_large_buffers_are_still_packed_while_the_interpreter_ends() -> None:
    """No thread is asked for where none would ever answer."""
    script = (
        "import os, atexit\n"
        "from proxyflow.serialize.payload import pack\n"
        "class Late:\n"
        "    def __del__(self, pack=pack, write=os.write, view=memoryview(bytes(20 << 20))):\n"
        "        write(1, b'%d ' % sum(map(len, pack(0, [b's'], [view]).frames)))\n"
        "late = Late()\n"
        "atexit.register(late.__del__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        timeout=60,
        check=True,
        env=_child_env(),
    )
    assert done.stdout.split() == [b"%d" % (128 + (20 << 20))] * 2, done.stderr


def _child_env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_work_goes_on_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine out of threads makes it slower, not wrong."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert map_chunks(lambda item: item * 2, list(range(10))) == list(range(0, 20, 2))


def test_the_first_error_of_a_thread_reaches_the_caller() -> None:
    """Results keep their order, and an error is not lost in a thread."""
    assert map_chunks(str, range(9)) == list("012345678")
    with pytest.raises(ZeroDivisionError):
        map_chunks(lambda item: 1 // (8 - item), range(9))
