"""Invalid settings: an error with the value, the allowed values, and the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffedit.server.auth import ApiKeys
from diffedit.server.settings import Settings, read_settings
from engine.errors import DiffEditError

KEY, OTHER = "correct-horse-battery-staple", "another-key-of-some-length"
WRONG: dict[str, list[Any]] = {
    "host": ["", "a b", "http://127.0.0.1", 5, "localhost:80", "*", "256.1.1.1", "127.1", "-"],
    "port": [-1, 70000, "http", 2.5],
    "api_keys": ["", 5],
    "insecure": ["perhaps", 7],
    "allowed_hosts": [
        *(
            5,
            "[1,",
            '["a", 5]',
            '[""]',
            '["a" "b"]',
            "a;b",
            "a b",
            "http://a.example",
            "a.example/",
        ),
        *("a.example:80", "*", "*.a.example", "a..example", "-a.example", "m\u00fcller.example"),
    ],
    "served_model_names": [5, '["a"', '[""]', "a\nb", "x" * 300, '["a", 5]', "\x1b[31m"],
    "key_max_edits": [0, -1, "many", 2.5, ""],
    "key_edits_per_minute": [0, -1, "many", 2.5, ""],
    "idle_unload_seconds": [0, -1, "soon", "inf", "nan"],
}
COUNTS = [name for name, field in Settings.model_fields.items() if field.annotation is int]
SECONDS = [name for name, field in Settings.model_fields.items() if field.annotation is float]


def wrong_values() -> list[tuple[str, Any]]:
    cases = [(name, value) for name, values in WRONG.items() for value in values]
    cases += [(n, v) for n in COUNTS if n != "port" for v in (-1, "many", 2.5, "")]
    cases += [(n, v) for n in SECONDS for v in (-1, "soon", "inf", "nan", float("inf"), "")]
    return cases


def test_every_setting_has_wrong_values_here() -> None:
    assert {name for name, _ in wrong_values()} == set(Settings.model_fields)


@pytest.mark.parametrize("from_environment", [False, True])
def test_wrong_values_are_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, from_environment: bool
) -> None:
    for name, value in wrong_values():
        source, values = name, {name: value}
        if from_environment:
            source, values = f"DIFFEDIT_SERVE_{name.upper()}", {}
            if name in ("allowed_hosts", "served_model_names") and value == 5:
                continue  # as a text it is a name
            if (name, value) in (("host", 5), ("api_keys", 5)):
                continue
            monkeypatch.setenv(source, str(value))
        with pytest.raises(DiffEditError) as info:
            read_settings(values)
        monkeypatch.delenv(source, raising=False)
        message = str(info.value)
        assert message.startswith(f"{name} is invalid: {source} is "), message
        assert "but must be " in message
        assert "Input should" not in message
        assert message.endswith(".")
        assert "\n" not in message


@pytest.mark.parametrize("name", ["allowed_hosts", "served_model_names"])
@pytest.mark.parametrize("value", [("",), (" ",), ("a", "b\n")])
def test_blank_names_of_options_are_refused(name: str, value: tuple[str, ...]) -> None:
    with pytest.raises(DiffEditError, match=f"{name} is invalid"):
        read_settings({name: value})


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("EDITS.Example.ORG", "edits.example.org"),
        ("a.example.", "a.example"),
        ("[::1]", "::1"),
        ("10.0.0.1", "10.0.0.1"),
        ("my_service", "my_service"),
    ],
)
def test_host_names_have_one_spelling(text: str, host: str) -> None:
    settings = read_settings({"host": text, "allowed_hosts": (text, host)})
    assert (settings.host, settings.allowed_hosts) == (host, (host,))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("LOCALHOST", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost.example", False),
    ],
)
def test_loopback_addresses(host: str, loopback: bool) -> None:
    assert read_settings({"host": host}).loopback is loopback


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(DiffEditError, match="There is no setting 'max_pixles'"):
        read_settings({"max_pixles": 1})


@pytest.mark.parametrize(
    "text", ["a.example,b.example", " a.example , b.example ,", '["a.example", "b.example"]']
)
def test_lists_in_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DIFFEDIT_SERVE_ALLOWED_HOSTS", text)
    assert read_settings({}).allowed_hosts == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "contains no key"),
        (b"# alice\n\n", "contains no key"),
        (b"alice", "Line 1"),
        (f"alice {KEY}\nbob short".encode(), "Line 2"),
        (f"alice {KEY}\nbob {KEY}".encode(), "Lines 1 and 2"),
        (f"alice {KEY}\n\nalice {KEY}".encode(), "Lines 1 and 3"),
        (f"alice {KEY} # hers".encode(), "Line 1"),
        (f"alice: {KEY}".encode(), "Line 1"),
        (f"al\x1bice {KEY}".encode(), "Line 1"),
        (f"alice={KEY}".encode(), "Line 1"),
        (f"{'a' * 65} {KEY}".encode(), "Line 1"),
        (f"alice {KEY}\x07".encode(), "Line 1"),
        (f"alice {KEY}".encode("utf-16"), "not a text file"),
        (b"\xff\xfe\x00", "not a text file"),
        (None, "Is a directory"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_key_files_that_cannot_be_used(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "keys"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(DiffEditError, match=words) as info:
        ApiKeys.read(file)
    assert KEY not in str(info.value)


def test_key_files_with_a_mark_of_the_encoding_and_two_keys_of_one_client(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    content = f"alice {KEY}\n  # a comment\nalice {OTHER}\n"
    file.write_bytes(b"\xef\xbb\xbf" + content.encode())
    keys = ApiKeys.read(file)
    assert (keys.owner(KEY), keys.owner(OTHER)) == ("alice", "alice")
