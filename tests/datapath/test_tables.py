"""Tables in the kernel and in memory: the same behaviour; opening, checking and creating pins."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kpbpf.address import from_text
from kpbpf.datapath import kernel
from kpbpf.errors import AbiMismatch, MapFull, MissingBpffs, NotFound
from kpbpf.home import Home
from maps import abi, bpf
from maps.fake import FakeStore, Faults
from maps.layout import U32, MapKind, MapSpec
from maps.table import KernelStore, PercpuTable, Store, Table, open_tables

HASH = abi.MAPS["backends"]._replace(entries=8)
LRU = abi.MAPS["affinities"]._replace(entries=8)
ARRAY = abi.MAPS["configs"]._replace(entries=2)
PERCPU = abi.MAPS["counters"]._replace(entries=4)
RANGES = abi.MAPS["ranges"]._replace(entries=6000)
ADDRESS = bytes(15) + b"\x01"


class Maker:
    """Makes maps of one sort, in the kernel or in memory."""

    def __init__(self, sort: str) -> None:
        self.sort = sort
        self.stores: list[Store] = []

    def store(self, spec: MapSpec) -> Store:
        made: Store = FakeStore(spec, Faults())
        if self.sort == "kernel":
            sizes = (spec.key_size, spec.value_size, spec.entries)
            made = KernelStore(bpf.map_create(spec.kind, *sizes, spec.flags, "kp_test"), spec)
        self.stores.append(made)
        return made


@pytest.fixture(params=["kernel", "memory"])
def make(request: pytest.FixtureRequest) -> Iterator[Maker]:
    maker = Maker(request.param)
    yield maker
    for store in maker.stores:
        store.close()


@pytest.fixture
def backends(make: Maker) -> Table[abi.BackendKey, abi.Backend]:
    return Table(HASH, make.store(HASH))


def test_blocks_hold_every_entry_once(make: Maker) -> None:
    spec = abi.MAPS["backends"]._replace(entries=10_000)
    table: Table[abi.BackendKey, abi.Backend] = Table(spec, make.store(spec))
    assert list(table.blocks_raw()) == []
    keys = [abi.BackendKey(1, slot).pack() for slot in range(9000)]
    table.put_many_raw((key, key * 3) for key in keys)
    found: dict[bytes, bytes] = {}
    for block, values in table.blocks_raw():
        for i in range(len(block) // 8):
            found[bytes(block[i * 8 : i * 8 + 8])] = bytes(values[i * 24 : i * 24 + 24])
    assert found == {key: key * 3 for key in keys}
    assert table.count() == 9000


def test_entry_is_put_read_replaced_and_deleted(
    backends: Table[abi.BackendKey, abi.Backend],
) -> None:
    key = abi.BackendKey(1, 2)
    assert backends.get(key) is None
    backends.put(key, abi.Backend(ADDRESS, 80, 0))
    backends.put(key, abi.Backend(ADDRESS, 81, 0))
    assert backends.get(key) == abi.Backend(ADDRESS, 81, 0)
    assert list(backends.items()) == [(key, abi.Backend(ADDRESS, 81, 0))]
    assert backends.delete(key) is True
    assert backends.delete(key) is False


def test_taken_key_is_left_alone_by_put_new(
    backends: Table[abi.BackendKey, abi.Backend],
) -> None:
    key = abi.BackendKey(1, 2)
    assert backends.put_new(key, abi.Backend(ADDRESS, 80, 0)) is True
    assert backends.put_new(key, abi.Backend(ADDRESS, 81, 0)) is False
    assert backends.get(key) == abi.Backend(ADDRESS, 80, 0)


def test_full_map_says_so_and_how_far_it_came(
    backends: Table[abi.BackendKey, abi.Backend],
) -> None:
    pairs = [(abi.BackendKey(1, i).pack(), bytes(24)) for i in range(10)]
    with pytest.raises(MapFull) as caught:
        backends.put_many_raw(pairs)
    assert caught.value.done == 8
    assert len(list(backends.items())) == 8
    with pytest.raises(MapFull):
        backends.put(abi.BackendKey(2, 0), abi.Backend(ADDRESS, 80, 0))
    backends.put(abi.BackendKey(1, 0), abi.Backend(ADDRESS, 80, 0))


def test_missing_keys_are_passed_over_when_many_are_deleted(
    backends: Table[abi.BackendKey, abi.Backend],
) -> None:
    backends.put_many_raw([(abi.BackendKey(1, i).pack(), bytes(24)) for i in range(6)])
    assert backends.delete_many_raw(abi.BackendKey(1, i).pack() for i in (0, 9, 8, 3, 7)) == 2
    assert sorted(key.slot for key, _ in backends.items()) == [1, 2, 4, 5]
    assert backends.delete_many_raw([]) == 0
    backends.put_many_raw([])


def test_lru_map_makes_room(make: Maker) -> None:
    table: Table[abi.AffinityKey, abi.Affinity] = Table(LRU, make.store(LRU))
    for service in range(50):
        table.put(abi.AffinityKey(ADDRESS, service), abi.Affinity(service, ADDRESS, 80))
    left = [key.service for key, _ in table.items()]
    assert 49 in left
    assert len(left) <= LRU.entries


def test_the_longest_range_that_holds_an_address_is_found(make: Maker) -> None:
    table: Table[abi.RangeKey, U32] = Table(RANGES, make.store(RANGES))

    def block(text: str, length: int, scope: int = 7) -> abi.RangeKey:
        return abi.RangeKey(32 + length, scope, from_text(text))

    table.put_many_raw(
        (key.pack(), U32(number).pack())
        for number, key in enumerate(
            [block("10.0.0.0", 104), block("10.1.0.0", 112), block("fd00::", 8), block("::", 0, 8)]
        )
    )
    found = {
        (text, scope): table.get(block(text, 128, scope))
        for text in ("10.1.2.3", "10.2.0.1", "11.0.0.1", "fd12::1", "fe80::1")
        for scope in (7, 8, 9)
    }
    assert {place: number for place, number in found.items() if number is not None} == {
        ("10.1.2.3", 7): 1,
        ("10.2.0.1", 7): 0,
        ("fd12::1", 7): 2,
        **{(text, 8): 3 for text, scope in found if scope == 8},
    }
    assert table.put_new(block("10.1.0.0", 112), U32(5)) is False
    assert table.delete(block("10.1.0.0", 113)) is False
    assert table.delete_many_raw([block("10.1.0.0", 112).pack(), bytes(24)]) == 1
    assert table.get(block("10.1.2.3", 128)) == 0
    assert sorted(key.prefix for key, _ in table.items()) == [32, 40, 136]
    with pytest.raises(OSError, match=r"\S") as caught:
        table.put(block("::", 129), U32(1))
    assert caught.value.errno == errno.EINVAL


def test_many_ranges_are_read_in_whole_and_a_full_trie_says_so(make: Maker) -> None:
    table: Table[abi.RangeKey, U32] = Table(RANGES, make.store(RANGES))
    keys = [abi.RangeKey(32 + 128, n, ADDRESS).pack() for n in range(RANGES.entries + 1)]
    table.put_many_raw((key, U32(1).pack()) for key in keys[:-1])
    assert sorted(key for key, _ in table.items_raw()) == sorted(keys[:-1])
    with pytest.raises(MapFull):
        table.put_raw(keys[-1], U32(1).pack())
    assert table.delete_many_raw(keys) == RANGES.entries
    assert table.count() == 0


def test_every_slot_of_an_array_is_there_from_the_start(make: Maker) -> None:
    table: Table[U32, abi.Config] = Table(ARRAY, make.store(ARRAY))
    assert table.get(U32(1)) == abi.Config.unpack(bytes(abi.Config.SIZE))
    assert table.get(U32(2)) is None
    assert [key for key, _ in table.items()] == [0, 1]
    with pytest.raises(OSError, match=r"\S") as caught:
        table.delete(U32(0))
    assert caught.value.errno == errno.EINVAL


def test_values_of_all_cpus_are_listed_and_summed(make: Maker) -> None:
    table: PercpuTable[U32, abi.Counter] = PercpuTable(PERCPU, make.store(PERCPU))
    cpus = bpf.possible_cpus()
    values = [abi.Counter(cpu + 1, 10) for cpu in range(cpus)]
    table.put(U32(1), values)
    assert table.get(U32(1)) == values
    assert table.sum(U32(1)) == abi.Counter(cpus * (cpus + 1) // 2, 10 * cpus)
    assert dict(table.items())[U32(0)] == [abi.Counter(0, 0)] * cpus


@pytest.mark.parametrize("kind", [MapKind.HASH, MapKind.LRU_HASH])
def test_ten_thousand_entries_go_in_and_come_out(make: Maker, kind: MapKind) -> None:
    spec = HASH._replace(kind=kind, entries=20_000, flags=0)
    table: Table[abi.BackendKey, abi.Backend] = Table(spec, make.store(spec))
    wanted = {abi.BackendKey(7, i).pack(): abi.Backend(ADDRESS, i, 0).pack() for i in range(10_000)}
    table.put_block(b"".join(wanted), b"".join(wanted.values()))
    assert dict(table.items_raw()) == wanted
    assert table.delete_block(b"".join(wanted)) == 10_000
    assert not list(table.items_raw())


# ---- pins ---------------------------------------------------------------------------------


def test_created_maps_are_found_again_with_what_is_in_them(home: Home) -> None:
    with open_tables(home, create=True) as tables:
        tables.names.put(abi.NameKey(0, 1), abi.Name("default/web/IPv4"))
        infos = {name: bpf.map_info(table.fd) for name, table in tables.by_name.items()}
    assert infos["flows"].name == "kp_flows"
    with open_tables(home, create=True) as again, open_tables(home) as reader:
        assert {name: bpf.map_info(t.fd) for name, t in again.by_name.items()} == infos
        assert reader.names.get(abi.NameKey(0, 1)) == abi.Name("default/web/IPv4")


def test_missing_map_is_made_and_the_others_stay(home: Home) -> None:
    open_tables(home, create=True).close()
    directory = home.maps_dir(abi.ABI_VERSION)
    (directory / "names").unlink()
    with pytest.raises(NotFound, match="names"):
        open_tables(home)
    with open_tables(home, create=True) as tables:
        assert not list(tables.names.items())


def test_reader_makes_nothing(home: Home) -> None:
    with pytest.raises(NotFound, match="not set up on this node"):
        open_tables(home)
    assert not home.pins.exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"value_size": 48}, "value size is 48, expected 24"),
        ({"key_size": 12}, "key size is 12, expected 8"),
        ({"entries": 5}, "entries is 5, expected 1048576"),
        ({"kind": MapKind.LRU_HASH, "flags": 0}, "kind is LRU_HASH, expected HASH"),
        ({"flags": 0}, "flags is 0, expected 1"),
    ],
)
def test_pin_of_another_layout_is_refused_with_both_sides_named(
    home: Home, change: dict[str, int], complaint: str
) -> None:
    open_tables(home, create=True).close()
    pin = home.maps_dir(abi.ABI_VERSION) / "backends"
    pin.unlink()
    spec = abi.MAPS["backends"]._replace(**change)  # type: ignore[arg-type]
    sizes = (spec.key_size, spec.value_size, spec.entries)
    fd = bpf.map_create(spec.kind, *sizes, spec.flags, "kp_backends")
    bpf.obj_pin(fd, pin)
    os.close(fd)
    with pytest.raises(AbiMismatch, match=str(pin)) as caught:
        open_tables(home, create=True)
    assert complaint in caught.value.why


def test_no_descriptor_is_left_open_when_opening_fails(home: Home) -> None:
    open_tables(home, create=True).close()
    (home.maps_dir(abi.ABI_VERSION) / "names").unlink()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(NotFound):
        open_tables(home)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_pins_outside_a_bpf_file_system_are_refused(tmp_path: Path) -> None:
    home = Home(tmp_path / "pins", tmp_path / "run")
    with pytest.raises(MissingBpffs, match=str(tmp_path)):
        open_tables(home, create=True)
    with pytest.raises(MissingBpffs):
        kernel.require(home)


def test_four_processes_at_once_make_one_set_of_maps(home: Home) -> None:
    home.ensure_run()
    program = (
        "import sys; from pathlib import Path; from kpbpf.home import Home;"
        "from maps.table import open_tables; from maps import bpf;"
        "home = Home(Path(sys.argv[1]), Path(sys.argv[2]));"
        "t = open_tables(home, create=True).by_name;"
        "print(sorted(bpf.map_info(x.fd).id for x in t.values()))"
    )
    command = [sys.executable, "-c", program, str(home.pins), str(home.run)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        for _ in range(4)
    ]
    answers = {process.communicate()[0] for process in started}
    assert len(answers) == 1
    assert answers.pop().count(b",") == len(abi.MAPS) - 1


def test_this_machine_will_do(home: Home) -> None:
    kernel.require(home)
    assert abs(kernel.now_ns() - kernel.now_ns()) < 1_000_000_000
