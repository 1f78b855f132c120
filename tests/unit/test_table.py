"""Tables in memory: faults on demand, limits, and the configuration that is kept in one."""

import errno

import pytest

from kpbpf.errors import MapFull
from maps import abi, config
from maps.fake import fake_tables
from maps.layout import U32

ADDRESS = bytes(15) + b"\x01"


def test_every_nth_write_fails_before_it_has_any_effect() -> None:
    tables = fake_tables()
    tables.fail_every(2)
    tables.names.put(abi.NameKey(0, 1), abi.Name("one"))
    with pytest.raises(MapFull):
        tables.names.put(abi.NameKey(0, 2), abi.Name("two"))
    assert tables.names.delete(abi.NameKey(0, 1))
    with pytest.raises(OSError, match="Input/output error"):
        tables.backends.put_many_raw([(bytes(8), bytes(24))])
    assert not list(tables.names.items())
    assert not list(tables.backends.items())
    tables.fail_every(0)
    tables.names.put(abi.NameKey(0, 3), abi.Name("three"))


def test_limits_can_be_set_and_are_named_in_the_error() -> None:
    tables = fake_tables(entries={"backends": 2})
    pairs = [(abi.BackendKey(1, slot).pack(), bytes(24)) for slot in range(3)]
    with pytest.raises(MapFull) as caught:
        tables.backends.put_many_raw(pairs)
    assert (caught.value.name, caught.value.entries, caught.value.done) == ("backends", 2, 2)


def test_writes_are_counted_entry_by_entry() -> None:
    tables = fake_tables()
    tables.backends.put_many_raw([(abi.BackendKey(1, i).pack(), bytes(24)) for i in range(5)])
    assert tables.backends.delete_many_raw([abi.BackendKey(1, 0).pack(), bytes(8)]) == 1
    assert tables.writes == 6


def test_wrong_sizes_are_refused() -> None:
    tables = fake_tables()
    with pytest.raises(ValueError, match="do not match"):
        tables.backends.put_block(bytes(8), bytes(23))
    with pytest.raises(ValueError, match="wrong size"):
        tables.backends.put_raw(bytes(7), bytes(24))


def test_entries_of_an_array_stay() -> None:
    tables = fake_tables()
    with pytest.raises(OSError, match="array") as caught:
        tables.configs.delete(U32(0))
    assert caught.value.errno == errno.EINVAL


def test_every_map_has_an_attribute_of_its_name() -> None:
    tables = fake_tables()
    assert {name: getattr(tables, name) for name in abi.MAPS} == tables.by_name


def test_configuration_is_written_once() -> None:
    tables = fake_tables()
    assert config.read(tables).flags == 0
    assert config.ensure(tables) == config.default_config() == config.read(tables)
    config.write(tables, config.default_config()._replace(refusals_per_sec=7))
    assert config.ensure(tables).refusals_per_sec == 7


def test_default_configuration_has_a_timeout_for_every_state() -> None:
    timeouts = config.default_config().timeout_sec
    assert len(timeouts) == abi.STATES
    assert all(timeouts[state] for state in abi.State)


def test_raised_epoch_touches_all_flows_or_those_of_udp() -> None:
    tables = fake_tables()
    before = config.ensure(tables)
    config.raise_epoch(tables, udp=True)
    assert config.read(tables) == before._replace(udp_epoch=before.udp_epoch + 1)
    config.raise_epoch(tables)
    after = before._replace(epoch=before.epoch + 1, udp_epoch=before.udp_epoch + 2)
    assert config.read(tables) == after


def test_epoch_starts_again_at_its_limit() -> None:
    tables = fake_tables()
    config.write(tables, config.default_config()._replace(epoch=0xFFFFFFFF))
    config.raise_epoch(tables)
    assert config.read(tables).epoch == 0
