"""Log lines."""

import io
import logging
from collections.abc import Iterator

import pytest

from kpbpf import log


@pytest.fixture(autouse=True)
def _root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_an_event_is_one_line_whatever_it_holds() -> None:
    stream = io.StringIO()
    log.start("info", stream)
    logger = log.get("kpbpf.test")
    logger.info("Service %s", "two\nlines")
    logger.debug("not shown")
    try:
        raise ValueError("boom")
    except ValueError:
        logger.exception("failed")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("INFO test: Service two | lines")
    assert "ERROR test: failed | Traceback" in second
    assert second.endswith("ValueError: boom")
