"""The text of manifests: documents, lists, JSON, and text that is none of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpbpf.kube.decode import Document, Undecodable, documents


def decoded(text: str, is_json: bool = False) -> list[Document]:
    return list(documents(text, is_json))


def test_several_documents_and_empty_ones() -> None:
    text = "a: 1\n---\n# nothing\n---\nb: 2\n"
    assert decoded(text) == [Document("document 1", {"a": 1}), Document("document 3", {"b": 2})]


def test_lists_carry_their_items() -> None:
    text = "kind: List\nitems:\n- {kind: A}\n- {kind: B}\n"
    assert decoded(text) == [
        Document("document 1 item 1", {"kind": "A"}),
        Document("document 1 item 2", {"kind": "B"}),
    ]


def test_a_typed_list_tells_its_items_kind() -> None:
    text = '{"apiVersion": "v1", "kind": "ServiceList", "items": [{"metadata": {}}]}'
    assert decoded(text)[0].raw == {"apiVersion": "v1", "kind": "Service", "metadata": {}}


def test_json_documents_one_after_the_other() -> None:
    assert [document.raw for document in decoded('{"a": 1}\n{"b": 2}', True)] == [
        {"a": 1},
        {"b": 2},
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "a: b: c",
        "\ta: 1",
        "a: !!int x",
        "a: !!bool x",
        "a: !!timestamp x",
        "a: 2024-99-99",
        "!!python/object/apply:os.system [x]",
        "a: \x00",
        "[" * 100_000,
        "- " * 100_000,
        "? " * 100_000,
        "\n".join(" " * depth + "a:" for depth in range(1000)),
        '{"a":' * 100_000,
    ],
)
def test_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(Undecodable):
        decoded(text)


@given(text=st.text(alphabet="{}[]:-?,!&*#|>'\"%@` \n\tab1.", max_size=60))
def test_nothing_but_undecodable_comes_of_any_text(text: str) -> None:
    for is_json in (False, True):
        message = ""
        try:
            decoded(text, is_json)
        except Undecodable as error:
            message = str(error)
        assert "\n" not in message
