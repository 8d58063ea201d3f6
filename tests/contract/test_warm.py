"""`python -m host.sessions http://… warm`: many series become sessions, each row exactly once, whatever was sent or lost before."""

import sys
from dataclasses import replace
from threading import Lock

import httpx
import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest

import host
from cellstate import RetryPolicy
from handlers.forecasting.memory import decode
from handlers.sessions.record import Record
from handlers.stores.memory import MemoryStore
from host import sessions
from host.bulk import command, streams
from host.bulk.jobs import Server
from host.bulk.series import SeriesError, read
from tests.conftest import answer, assert_close, make_service
from tests.support.host_in_memory import HostInMemory
from tests.support.requests import act, contents

POLICY = RetryPolicy(first_pause=0.0, max_pause=0.0, on_retry=command.tell_of)


class Deployment:
    """A model behind a host in memory, and the command over it."""

    def __init__(self, model, store=None, **settings):
        self.store = store or MemoryStore()
        self.service = make_service(model, store=self.store, **settings)
        self.host = HostInMemory(model.signature.name, self.service)
        lock = Lock()

        def one_at_a_time(request):
            with lock:
                return self.host(request)

        self._http = httpx.Client(transport=httpx.MockTransport(one_at_a_time))

    def run(self, verb, path, *more):
        arguments = ["http://host", verb, str(path), "--model", self.host.model, *map(str, more)]
        return command.main(arguments, lambda options: Server(options.url, options.model, options.key, POLICY, self._http))

    def session(self, id):
        return answer(self.service, act(id, "describe"))["session"]


@pytest.fixture
def hourly(exported):
    """The model of one feature, with hours."""
    model = exported("one")
    return replace(model, signature=replace(model.signature, frequency="1h", calendar={"gaps": "fill"}))


@pytest.fixture
def few(monkeypatch):
    """Requests of three rows, so that a series has many."""
    monkeypatch.setattr(streams, "CHUNK", 3)


def assert_same_sessions(one, other):
    """The same sessions at the same places, with the same states and times."""
    found, expected = ({key: Record.decode(entry.value) for key, entry in contents(store).items()} for store in (one, other))
    assert found.keys() == expected.keys()
    for key, record in found.items():
        state, wanted = record.state, expected[key].state
        assert (state.position, decode(state.forecast, 1).time) == (wanted.position, decode(wanted.forecast, 1).time)
        assert_close(state.values, wanted.values, "state")


def hours(count, start=0):
    moments = np.datetime64("2018-09-29T00:00") + np.arange(start, start + count).astype("timedelta64[h]")
    return [str(moment) + ":00" for moment in moments]


def write(path, rows, header="series,time,load"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture
def fleet(tmp_path):
    """Three series, their rows mixed: one begins with a hole, one has a gap in its times, one has a value missing."""
    rows = [("late", time, "" if i < 2 else i) for i, time in enumerate(hours(9))]
    rows += [("gap", time, i / 2) for i, time in enumerate(hours(10)) if i not in (4, 5)]
    rows += [("hole", time, "" if i == 6 else 3 - i) for i, time in enumerate(hours(8))]
    return write(tmp_path / "fleet.csv", sorted(rows, key=lambda row: row[1]))


def test_every_series_becomes_a_session_as_if_it_had_been_streamed(hourly, fleet, few):
    warmed, streamed = Deployment(hourly), make_service(hourly)
    assert warmed.run("warm", fleet, "--prefix", "m-", "--parallel", 2, "--rows", 2) == 0
    for series in read(fleet).series:
        id, first = f"m-{series.name}", 2 if series.name == "late" else 0
        for row, (time, [value]) in enumerate(zip(series.times[first:], series.values[first:].tolist(), strict=True)):
            session = {"id": id, "step": 0} if row == 0 else id
            answer(streamed, {"observations": [{"time": time, "load": None if np.isnan(value) else value}], "session": session})
        expected = answer(streamed, act(id, "describe"))["session"]
        assert {name: warmed.session(id)[name] for name in ("step", "time")} == {name: expected[name] for name in ("step", "time")}
        what_if = {"observations": [{"time": hours(1, 12)[0], "load": 1}], "session": id, "commit": False}
        assert_close(answer(warmed.service, what_if)["prediction"], answer(streamed, what_if)["prediction"], id)


def test_again_sends_nothing(hourly, fleet, few, capsys):
    deployment = Deployment(hourly)
    deployment.run("warm", fleet)
    assert "23 rows sent to 3 sessions; 0 had all of theirs; 0 failed" in capsys.readouterr().out
    before, asked = contents(deployment.store), len(deployment.host.bodies)
    assert deployment.run("warm", fleet) == 0
    assert "0 rows sent to 0 sessions; 3 had all of theirs; 0 failed" in capsys.readouterr().out
    assert contents(deployment.store) == before
    assert len(deployment.host.bodies) == asked + 1, "one body that asks where they are"


def test_a_file_that_has_grown_is_gone_on_with(hourly, tmp_path, few):
    grown, whole = Deployment(hourly), Deployment(hourly)
    rows = [("a", time, i) for i, time in enumerate(hours(20))]
    for count in (7, 8, 8, 20):
        assert grown.run("warm", write(tmp_path / "grown.csv", rows[:count])) == 0
    assert whole.run("warm", tmp_path / "grown.csv") == 0
    assert {**grown.session("a"), "last_step": 0} == {**whole.session("a"), "last_step": 0}


@pytest.mark.parametrize("faults", [["unanswered"] * 3, ["unsent", "unanswered", httpx.Response(503), httpx.Response(429)]])
def test_answers_that_are_lost_are_asked_for_again(hourly, fleet, few, faults):
    lossy, sound = Deployment(hourly), Deployment(hourly)
    lossy.host.faults.extend([None, *faults])
    assert lossy.run("warm", fleet, "--parallel", 1) == sound.run("warm", fleet, "--parallel", 1) == 0
    assert_same_sessions(lossy.store, sound.store)


def test_a_server_that_does_not_answer_is_told_of_while_the_command_tries(hourly, fleet, capsys):
    deployment = Deployment(hourly)
    deployment.host.faults.extend(["unsent"] * 5)
    assert deployment.run("warm", fleet, "--parallel", 1) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "trying again" in line]
    assert len(told) == 1
    assert "attempt 3 failed, trying again: " in told[0]


@pytest.mark.parametrize("at", range(1, 4))
def test_a_command_that_ended_halfway_is_started_again(hourly, fleet, few, at, capsys):
    """The server goes away after a few requests, the last of which it applied or not."""
    broken, sound = Deployment(hourly), Deployment(hourly)
    broken.host.faults.extend([None] * at + [httpx.Response(400, json={"error": {"code": "draining", "message": "away"}})])
    assert broken.run("warm", fleet, "--parallel", 1) == 2
    assert "away" in capsys.readouterr().err
    assert broken.run("warm", fleet, "--parallel", 1) == sound.run("warm", fleet, "--parallel", 1) == 0
    assert_same_sessions(broken.store, sound.store)


def test_a_step_of_an_earlier_command_that_arrives_late_is_not_repeated(hourly, tmp_path, few):
    """Between the question where a session is and the step, another command advances it."""
    deployment = Deployment(hourly)
    path = write(tmp_path / "a.csv", [("a", time, i) for i, time in enumerate(hours(9))])
    rows = [{"time": time, "load": i} for i, time in enumerate(hours(3))]
    serve, stepped = deployment.service.handle_batch, []

    def with_another(bodies):
        if not stepped and b'"describe"' not in bodies[0]:
            stepped.append(serve([b'{"observations": %s, "session": {"id": "a", "step": 0}}' % str(rows).replace("'", '"').encode()]))
        return serve(bodies)

    deployment.service.handle_batch = with_another
    assert deployment.run("warm", path) == 0
    assert deployment.session("a")["step"] == 9


@pytest.mark.parametrize("chunk", range(1, 9))
def test_the_night_on_which_clocks_are_set_back(exported, tmp_path, monkeypatch, chunk):
    """Times without offsets, of which some occur twice; the command ends after each request and is started again."""
    model = exported("one")
    zoned = replace(model, signature=replace(model.signature, frequency="30min", calendar={"timezone": "America/Chicago"}))
    walls = ["00:00", "00:30", "01:00", "01:30", "01:00", "01:30", "02:00", "02:30", "03:00"]
    path = write(tmp_path / "night.csv", [("a", f"2018-11-04T{wall}", i) for i, wall in enumerate(walls)])
    monkeypatch.setattr(streams, "CHUNK", chunk)
    deployment = Deployment(zoned)
    for _ in walls:
        away = httpx.Response(400, json={"error": {"code": "draining", "message": "away"}})
        deployment.host.faults.extend([None, None, away])
        deployment.run("warm", path)
        deployment.host.faults.clear()
    assert deployment.run("warm", path) == 0
    session = deployment.session("a")
    assert (session["step"], session["time"]) == (9, "2018-11-04T03:00:00-06:00")


def as_parquet(path, series="series"):
    """The same series in Parquet, several row groups long, its times in the type of times."""
    table = pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(column_types={"series": pyarrow.string()}))
    pyarrow.parquet.write_table(table.rename_columns([series, *table.column_names[1:]]), path.with_suffix(".parquet"), row_group_size=50)
    return path.with_suffix(".parquet")


def test_parquet_is_the_same_series_as_csv(hourly, fleet, few):
    one, other = Deployment(hourly), Deployment(hourly)
    assert one.run("warm", fleet) == other.run("warm", as_parquet(fleet, "meter"), "--series", "meter") == 0
    assert_same_sessions(other.store, one.store)
    assert other.run("warm", fleet) == 0, "the same series, whatever holds them: nothing is sent twice"
    assert_same_sessions(other.store, one.store)


@pytest.mark.parametrize("at", [1, 5, 30])
def test_thousands_of_series_in_parquet_are_gone_on_with(hourly, tmp_path, few, at, capsys):
    rows = [(f"m{i:04}", time, i % 7 + k) for k, time in enumerate(hours(4)) for i in range(1_500)]
    path, deployment = as_parquet(write(tmp_path / "many.csv", rows)), Deployment(hourly)
    away = httpx.Response(400, json={"error": {"code": "draining", "message": "away"}})
    deployment.host.faults.extend([None] * at + [away])
    assert deployment.run("warm", path, "--parallel", 1) == 2
    assert deployment.run("warm", path) == 0
    assert "warm: 1,500 of 1,500 series" in capsys.readouterr().err
    assert deployment.run("warm", path) == 0
    assert "0 rows sent to 0 sessions; 1,500 had all of theirs; 0 failed" in capsys.readouterr().out
    assert {deployment.session(f"m{i:04}")["step"] for i in range(0, 1_500, 97)} == {4}


def test_without_times_rows_are_counted(exported, tmp_path, few):
    deployment, values = Deployment(exported("one")), ["", "1.5", "2", "", "3", "4", "5"]
    path = tmp_path / "power.csv"
    for count in (4, 7):
        path.write_text("\n".join(["load", *values[:count]]) + "\n")
        assert deployment.run("warm", path) == 0
    assert deployment.session("power")["step"] == 6, "the series is named after the file, and begins with its first measurement"


def test_one_series_fails_alone_and_is_named(hourly, fleet, tmp_path, few, capsys):
    rows = [("bad", time, i) for i, time in enumerate([*hours(4), hours(1)[0], *hours(2, 4)])]
    rows += [("good", time, i) for i, time in enumerate(hours(8))]
    rows += [("no such id", hours(1)[0], 1)]
    deployment = Deployment(hourly)
    assert deployment.run("warm", write(tmp_path / "mixed.csv", rows)) == 1
    shown = capsys.readouterr()
    assert "bad: from 2018-09-29T03:00:00 on: 422 invalid_input: observations[1].time: 2018-09-29T00:00:00 is late" in shown.err
    assert "no such id: from 2018-09-29T00:00:00 on" in shown.err
    assert deployment.session("good")["step"] == 8
    assert deployment.session("bad")["step"] == 3, "what came before is kept"
    assert "2 failed" in shown.out


def test_rows_since_a_time(hourly, tmp_path):
    deployment = Deployment(hourly)
    path = write(tmp_path / "a.csv", [("a", time, i) for i, time in enumerate(hours(9))])
    assert deployment.run("warm", path, "--since", "2018-09-29T05:00") == 0
    assert deployment.session("a")["step"] == 4


def test_a_model_that_is_not_there_and_a_wrong_key_end_the_command(hourly, fleet, capsys):
    deployment = Deployment(hourly)
    assert deployment.run("warm", fleet, "--model", "other") == 2
    deployment.host.token = "right"
    assert deployment.run("warm", fleet) == 2
    assert "401" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header of different names with at least one column of values"),
        ("series,time\na,2018-09-29", "at least one column of values"),
        ("load,load\n1,2", "different names"),
        ("time,load\nnoon,2", "a.csv:2: time: expected a time such as 2018-09-29T23:00:00, got 'noon'"),
        ("time,load\n2018-09-29,2\n2018-09-30T00:00Z,1", "a.csv:3: time: some times have an offset and others have none"),
        ("time,load\n2018-09-29,two", "a.csv:2: load: expected a number or nothing, got 'two'"),
        ("time,load\n2018-09-29,inf", "a.csv:2: load: expected a finite number or nothing"),
        ("time,load\n2018-09-29", "a.csv:2: 1 cells, the header has 2"),
    ],
)
def test_what_cannot_be_read_as_series(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(SeriesError) as caught:
        read(tmp_path / "a.csv")
    assert message in str(caught.value)


def test_files_that_cannot_be_read(hourly, tmp_path, capsys):
    (tmp_path / "a.csv.gz").write_text("load\n1\n")
    for name, message in (("none.csv", "none.csv"), ("a.csv.gz", "a.csv.gz"), ("a.parquet", "a.parquet")):
        assert Deployment(hourly).run("warm", tmp_path / name) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "plain.csv").write_text("load\n1\n")
    assert Deployment(hourly).run("warm", tmp_path / "plain.csv", "--since", "2018-09-29") == 2
    assert "no column 'time'" in capsys.readouterr().err
    assert Deployment(hourly).run("warm", tmp_path / "plain.csv", "--series", "meter") == 2
    assert "plain.csv: no column 'meter'; its columns are 'load'" in capsys.readouterr().err


class TestTheCommandLine:
    def test_the_url_of_a_server_has_its_own_verbs(self, capsys):
        with pytest.raises(SystemExit) as ended:
            sessions.main(["http://127.0.0.1:1", "--help"])
        assert ended.value.code == 0
        assert "warm" in capsys.readouterr().out

    def test_the_url_of_a_store_has_those_of_a_store(self, capsys):
        assert sessions.main(["memory://", "stats"]) == 2
        assert "lives inside its worker" in capsys.readouterr().err

    def test_without_the_client_it_says_what_to_install(self, monkeypatch, capsys):
        for name in [name for name in sys.modules if name.startswith(("host.bulk", "cellstate."))]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr(host, "bulk")
        monkeypatch.setitem(sys.modules, "cellstate", None)
        assert sessions.main(["http://127.0.0.1:1", "warm", "a.csv", "--model", "m"]) == 2
        assert "pip install ./client" in capsys.readouterr().err
