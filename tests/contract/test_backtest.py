"""`python -m host.sessions http://… backtest`: its scores are those that streaming by hand and the textbook's formulas give."""

import json
from dataclasses import replace

import numpy as np
import pytest

from handlers.sessions.record import was_closed
from tests.conftest import answer, make_service
from tests.contract.test_distributions import probabilistic  # noqa: F401  # a fixture
from tests.contract.test_warm import Deployment, as_parquet, hours, write
from tests.support.calibrated import calibrated, write_series
from tests.support.requests import contents

HORIZON, SEASON, WARM, EVERY, LENGTH = 6, 4, 60, 5, 100


@pytest.fixture(scope="module")
def meter(exported, tmp_path_factory):
    """The model of one feature, with hours and intervals."""
    model = exported("one")
    path = write_series(tmp_path_factory.mktemp("series") / "load.csv", model.sequence(400, seed=3))
    model = calibrated(model, path, HORIZON)
    return replace(model, signature=replace(model.signature, frequency="1h", calendar={"gaps": "fill"}))


@pytest.fixture
def values(meter):
    """Two series, with holes."""
    found = {name: meter.sequence(LENGTH, seed)[:, 0].astype(float) for seed, name in enumerate(("a", "b"))}
    found["a"][[20, 70, 71]] = np.nan
    return found


@pytest.fixture
def fleet(tmp_path, values):
    """As CSV: what was not measured in one series is an empty cell, in the other a row that is not there."""
    rows = [(name, time, "" if np.isnan(v) else v) for name, all in values.items() for time, v in zip(hours(LENGTH), all, strict=True)]
    return write(tmp_path / "fleet.csv", [row for row in rows if row[1:] != (hours(LENGTH)[71], "")])


def by_hand(meter, values):
    """Errors `[N, H]`, scales `[N, 1]`, lower and upper `[N, H]`, and those of the seasonal naive forecast, row by row."""
    service, found = make_service(meter), []
    for name, series in values.items():
        scale = np.nanmean(np.abs(series[SEASON:WARM] - series[: WARM - SEASON]))
        rows = [t for t in range(LENGTH) if (name, t) != ("a", 71)]
        observed = [{"time": hours(1, t)[0], "load": None if np.isnan(series[t]) else series[t]} for t in rows]
        answer(service, {"observations": observed[: WARM - 1], "session": {"id": name, "step": 0}})
        last = WARM - 1
        for end in range(WARM, len(rows), EVERY):
            request = {"observations": observed[last:end], "session": name, "horizon": HORIZON, "levels": [80, 95]}
            reply, last, t = answer(service, request), end, rows[end - 1]
            for h in range(HORIZON):
                if t + 1 + h < LENGTH and not np.isnan(series[t + 1 + h]):
                    lag = SEASON if h < SEASON else 2 * SEASON
                    naive, before = np.abs(series[lag:WARM] - series[: WARM - lag]), t + 1 + h - lag
                    while np.isnan(series[before]):
                        before -= SEASON
                    bounds, ordered = reply["intervals"]["80"], np.sort(naive[~np.isnan(naive)])
                    forecast, lower, upper = (part[h][0] for part in (reply["forecast"], bounds["lower"], bounds["upper"]))
                    found.append((h, series[t + 1 + h], forecast, lower, upper, scale, series[before], ordered))
    return found


def test_parquet_gives_the_scores_of_csv(meter, fleet, tmp_path):
    for name, path in (("csv", fleet), ("parquet", as_parquet(fleet))):
        options = ("--horizon", HORIZON, "--warm", WARM, "--season", SEASON, "--parallel", 1, "--json", tmp_path / f"{name}.json")
        assert Deployment(meter).run("backtest", path, *options) == 0
    assert (tmp_path / "csv.json").read_text() == (tmp_path / "parquet.json").read_text()


def test_scores_by_horizon_beside_the_seasonal_naive_forecast(meter, values, fleet, tmp_path, capsys):
    deployment = Deployment(meter)
    options = ("--horizon", HORIZON, "--every", EVERY, "--warm", WARM, "--season", SEASON, "--json", tmp_path / "scores.json")
    assert deployment.run("backtest", fleet, *options) == 0
    found, expected = json.loads((tmp_path / "scores.json").read_text()), by_hand(meter, values)
    assert (found["series"], found["forecasts"], found["failed"]) == (2, 16, {})
    assert found["model"] == {"name": "one", "version": "1.0"}
    for h, line in enumerate(found["by_horizon"]):
        mine = [one[1:] for one in expected if one[0] == h]
        errors = np.array([abs(y - f) for y, f, *_ in mine])
        scale = np.array([one[4] for one in mine])
        assert line["ahead"] == h + 1
        assert line["forecasts"] == len(mine)
        close(line["mae"], errors.mean())
        close(line["rmse"], np.sqrt((errors**2).mean()))
        close(line["mase"], (errors / scale).mean())
        held = [low <= y <= high for y, _, low, high, *_ in mine]
        scores = [high - low + 10 * max(low - y, y - high, 0) for y, _, low, high, *_ in mine]
        close(line["intervals"]["80"]["coverage"], 100 * np.mean(held))
        close(line["intervals"]["80"]["width"], np.mean([high - low for _, _, low, high, *_ in mine]))
        close(line["intervals"]["80"]["score"], np.mean(scores))
        naive = line["naive"]
        close(naive["mae"], np.mean([abs(y - before) for y, *_, before, _ in mine]))
        halves = [ordered[min(int(np.ceil((len(ordered) + 1) * 0.8)), len(ordered)) - 1] for *_, ordered in mine]
        close(naive["intervals"]["80"]["width"], 2 * np.mean(halves))
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["ahead", "mae", "(naive)", "rmse", "(naive)", "mase", "(naive)"]
    assert shown[8].split() == ["80", "%", "coverage", "(naive)", "width", "(naive)", "score", "(naive)"]
    assert len(shown) == 3 * 7 + 2


def close(found, expected):
    assert found == pytest.approx(expected, rel=2e-4)


def test_its_sessions_are_closed(meter, fleet):
    deployment = Deployment(meter)
    deployment.run("backtest", fleet, "--horizon", 3)
    assert len(contents(deployment.store)) == 2
    assert all(was_closed(entry.value) for entry in contents(deployment.store).values())


def test_a_model_without_intervals_is_scored_without(exported, tmp_path, capsys):
    deployment = Deployment(exported("one"))
    path = tmp_path / "power.csv"
    path.write_text("\n".join(["load", *map(str, exported("one").sequence(40)[:, 0])]) + "\n")
    assert deployment.run("backtest", path, "--horizon", 3, "--json", tmp_path / "s.json") == 0
    assert json.loads((tmp_path / "s.json").read_text())["levels"] == []
    assert "%" not in capsys.readouterr().out


def test_a_model_of_distributions_is_scored_with_its_own_intervals(probabilistic, tmp_path):  # noqa: F811
    model = probabilistic("normal")
    path = tmp_path / "power.csv"
    path.write_text("\n".join(["value", *map(str, 20 + 10 * np.random.default_rng(0).normal(size=40))]) + "\n")
    assert Deployment(model).run("backtest", path, "--horizon", 3, "--json", tmp_path / "s.json") == 0
    line = json.loads((tmp_path / "s.json").read_text())["by_horizon"][0]
    assert line["intervals"]["80"]["width"] > 0


def test_inputs_known_in_advance_are_taken_from_the_file(exported, tmp_path):
    two = exported("two")
    x = two.sequence(30)
    path = tmp_path / "flow.csv"
    path.write_text("\n".join(["flow,hour,rain", *(",".join(map(str, row)) for row in x)]) + "\n")
    deployment = Deployment(two)
    options = ("--horizon", 4, "--every", 6, "--warm", 12, "--target", "flow", "--json", tmp_path / "s.json")
    assert deployment.run("backtest", path, *options) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["forecasts"] == 3, "from rows 12, 18 and 24; after 30 nothing is known in advance"
    service, expected = make_service(two), []
    for end in (12, 18, 24):
        request = {"inputs": x[:end].tolist(), "horizon": 4, "future": x[end : end + 4, 1:].tolist()}
        expected.append(abs(answer(service, request)["forecast"][2][0] - x[end + 2, 0]))
    close(found["by_horizon"][2]["mae"], np.mean(expected))


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_plot_is_drawn(meter, fleet, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    assert Deployment(meter).run("backtest", fleet, "--horizon", 3, "--plot", tmp_path / f"plot.{suffix}") == 0
    assert (tmp_path / f"plot.{suffix}").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        ("series,time,load", ["--target", "flow"], "--target: name the columns that the model forecasts, of load"),
        ("series,time,load", ["--levels", "0"], "--levels: expected 1 to 99 percent"),
        ("series,load,other", [], "--target: name the columns"),
    ],
)
def test_what_is_wrong_with_the_options(meter, tmp_path, header, options, message, capsys):
    path = write(tmp_path / "a.csv", [("a", "2018-09-29" if "time" in header else 1, 2)], header)
    assert Deployment(meter).run("backtest", path, *options) == 2
    assert message in capsys.readouterr().err


def test_a_series_that_is_too_short_or_refused_is_named_and_closed(meter, tmp_path, capsys):
    rows = [("short", time, i) for i, time in enumerate(hours(2))] + [("late", time, 1) for time in [*hours(30), *hours(3)]]
    deployment = Deployment(meter)
    assert deployment.run("backtest", write(tmp_path / "a.csv", rows), "--horizon", 3) == 1
    shown = capsys.readouterr().err
    assert "short: from 2018-09-29T00:00:00 on: 2 rows, too few" in shown
    assert "late: from" in shown
    assert "is late" in shown
