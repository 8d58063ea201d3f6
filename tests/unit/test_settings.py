"""Settings: read once, checked whole, documented; what cannot be understood refuses to start."""

import dataclasses
import re
from pathlib import Path

import pytest

from handlers.errors import ConfigurationError
from handlers.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
NAMES = {field.name for field in dataclasses.fields(Settings)}


def test_nothing_set_is_the_defaults():
    assert Settings.read(None, {}) == Settings.read({}, {"PATH": "/bin"}) == Settings()


def test_the_environment_beats_the_archive_and_the_archive_the_default():
    settings = Settings.read({"max_steps": 7, "threads": 3}, {"CELLSTATE_MAX_STEPS": "9"})
    assert (settings.max_steps, settings.threads, settings.max_horizon) == (9, 3, Settings().max_horizon)


def test_each_setting_keeps_its_type_whichever_way_it_comes():
    section = {"session_ttl": 60, "store_sync": False, "store": "memory://", "max_batch": "8"}
    environment = {"CELLSTATE_FAST_MESSAGES": "0", "CELLSTATE_SWEEP_INTERVAL": "0.5"}
    settings = Settings.read(section, environment)
    assert (settings.session_ttl, settings.store_sync, settings.store, settings.max_batch) == (60.0, False, "memory://", 8)
    assert (settings.fast_messages, settings.sweep_interval) == (False, 0.5)
    for name, value in dataclasses.asdict(settings).items():
        assert type(value) is type(getattr(Settings(), name)), name


@pytest.mark.parametrize(
    ("section", "environment", "named"),
    [({"max_step": 1}, {}, "cellstate.max_step"), ({}, {"CELLSTATE_MAX_STEP": "1"}, "CELLSTATE_MAX_STEP"), ({7: 1}, {}, "cellstate.7")],
)
def test_an_unknown_name_refuses_and_says_where_it_stands(section, environment, named):
    with pytest.raises(ConfigurationError, match=rf"unknown setting {re.escape(named)}; known: .*max_steps"):
        Settings.read(section, environment)


KUBERNETES = {  # what Kubernetes sets in every container for the Services `cellstate` and `cellstate-metrics`
    "CELLSTATE_SERVICE_HOST": "10.96.0.10",
    "CELLSTATE_SERVICE_PORT": "8080",
    "CELLSTATE_SERVICE_PORT_HTTP": "8080",
    "CELLSTATE_PORT": "tcp://10.96.0.10:8080",
    "CELLSTATE_PORT_8080_TCP": "tcp://10.96.0.10:8080",
    "CELLSTATE_PORT_8080_TCP_PROTO": "tcp",
    "CELLSTATE_PORT_8080_TCP_PORT": "8080",
    "CELLSTATE_PORT_8080_TCP_ADDR": "10.96.0.10",
    "CELLSTATE_METRICS_SERVICE_HOST": "10.96.0.11",
    "CELLSTATE_METRICS_PORT": "tcp://10.96.0.11:8082",
    "CELLSTATE_METRICS_PORT_8082_UDP_ADDR": "10.96.0.11",
}


def test_the_variables_that_kubernetes_sets_for_a_service_of_that_name_are_no_settings():
    assert Settings.read({}, KUBERNETES) == Settings()


@pytest.mark.parametrize("variable", ["CELLSTATE_SERVICE", "CELLSTATE_PORTS", "CELLSTATE_PORT_8080", "CELLSTATE_IMPORT"])
def test_a_variable_that_only_resembles_them_refuses(variable):
    with pytest.raises(ConfigurationError, match=variable):
        Settings.read({}, {variable: "1"})


UNREADABLE = {
    "a word for a number": ({"max_steps": "many"}, {}, "cellstate.max_steps: expected int, got 'many'"),
    "a word for a number, in the environment": ({}, {"CELLSTATE_SESSION_TTL": "soon"}, "CELLSTATE_SESSION_TTL: expected float, got 'soon'"),
    "a word for yes or no": ({"store_sync": "perhaps"}, {}, "cellstate.store_sync: expected true or false"),
    "nothing in the environment": ({}, {"CELLSTATE_THREADS": ""}, "CELLSTATE_THREADS: expected int"),
    "zero": ({"max_batch": 0}, {}, "max_batch: must be greater than 0, got 0"),
    "below zero": ({"session_ttl": -1}, {}, "session_ttl: must be greater than 0"),
    "another backend": ({"backend": "tensorflow"}, {}, "backend: expected one of onnxruntime, torchscript, got 'tensorflow'"),
    "another device": ({"device": "tpu"}, {}, "device: expected one of auto, cpu, cuda"),
    "a key too long": ({"state_key": "k" * 65}, {}, "state_key: at most 64 bytes"),
    "a part of a step": ({"max_steps": 1.5}, {}, "max_steps"),
    "true for a number": ({"threads": True}, {}, "threads"),
    "a list for a text": ({"store": ["memory://"]}, {}, "store"),
    "not a number": ({}, {"CELLSTATE_SESSION_TTL": "nan"}, "session_ttl"),
    "for ever": ({}, {"CELLSTATE_SESSION_TTL": "inf"}, "session_ttl"),
    "no section but a value": (3, {}, "cellstate"),
}


@pytest.mark.parametrize(("section", "environment", "message"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_unreadable_value_refuses(section, environment, message):
    with pytest.raises(ConfigurationError, match=f"(?i){re.escape(message)}"):
        Settings.read(section, environment)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_name_without_a_value_refuses(name):
    """`state_key:` with nothing behind it is null in YAML: never the key "None"."""
    with pytest.raises(ConfigurationError, match=name):
        Settings.read({name: None}, {})


def test_secrets_are_masked_and_all_else_is_shown():
    shown = Settings.read({"state_key": "swordfish", "store": "memory://"}, {}).effective()
    assert shown.keys() == NAMES
    assert "swordfish" not in str(shown)
    assert (shown["state_key"], shown["store"]) == ("***", "memory://")
    assert Settings().effective()["state_key"] == ""


def test_a_refusal_does_not_tell_the_secret():
    with pytest.raises(ConfigurationError) as caught:
        Settings.read({"state_key": "swordfish" * 9}, {})
    assert "swordfish" not in caught.value.message


def test_without_a_store_sessions_live_below_the_users_state_folder(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/var/somewhere")
    assert Settings().store_url == "lmdb:///var/somewhere/cellstate/sessions"
    assert Settings(store="memory://").store_url == "memory://"


def test_the_time_that_is_believed_is_kept_beside_the_embedded_store():
    assert Settings(store="lmdb:///data/sessions").clock_reference == Path("/data/sessions/clock.json")
    assert Settings(store="memory://").clock_reference is Settings(store="valkey://here").clock_reference is None


def test_settings_cannot_be_changed_while_they_are_in_force():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().max_steps = 5


def documented() -> dict[str, str]:
    """Name -> default of each row of the page's table."""
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", PAGE.read_text(), re.MULTILINE))


def test_every_setting_is_documented_and_nothing_else_is():
    assert documented().keys() == NAMES


@pytest.mark.parametrize("name", sorted(NAMES - {"store"}))
def test_the_documented_default_is_the_default(name):
    stated = documented()[name].strip("`")
    default = getattr(Settings(), name)
    assert stated == "–" if default == "" else Settings.read({}, {f"CELLSTATE_{name.upper()}": stated}) == Settings()


@pytest.mark.parametrize(("given", "read"), [("auto", "auto"), (0, 0), (100, 100), ("100", 100)])
def test_the_recent_inputs_are_a_number_or_auto(given, read):
    assert Settings.read({"rewarm_steps": given}, {}).rewarm_steps == read
    assert Settings.read({}, {"CELLSTATE_REWARM_STEPS": str(given)}).rewarm_steps == read


@pytest.mark.parametrize("given", ["many", -1, 1.5, None, True])
def test_other_recent_inputs_refuse(given):
    with pytest.raises(ConfigurationError, match="rewarm_steps: "):
        Settings.read({"rewarm_steps": given}, {})
