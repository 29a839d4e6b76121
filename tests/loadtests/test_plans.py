"""What overload, soak and restart assert, on hand-written traces and samples: each check can fail."""

from __future__ import annotations

import pytest

from loadtests import overload, restart, soak
from loadtests.__main__ import main
from loadtests.ladder import Ladder, Timing, parse, seconds
from loadtests.overload import Overload
from loadtests.resources import Sample, gauges, growth_per_hour
from loadtests.trace import Trace
from tests.loadtests.traces import trace

WINDOWS = Overload(10.0, 10.0, 10.0, 10.0).windows(0.0)


def crowd(*, recovered_after: float = 2.0, cause: str = "Overloaded") -> list[Trace]:
    """Quick answers; every second request of the overload refused; slow answers until it has recovered."""
    traces = [trace(0.2 * n) for n in range(50)]
    for n in range(100):
        at = 10 + 0.1 * n
        traces.append(trace(at, None, (), "rejected", cause) if n % 2 else trace(at, ttft=0.9))
    for n in range(50):
        at = 20 + 0.2 * n
        traces.append(trace(at, ttft=0.9 if at < 20 + recovered_after else 0.1))
    return traces


def failed(checks: dict[str, tuple[bool, str]]) -> list[str]:
    return [name for name, (passed, _) in checks.items() if not passed]


def test_a_clean_overload_passes() -> None:
    assert failed(overload.judge(crowd(), WINDOWS)) == []
    assert overload.judge(crowd(), WINDOWS)["recovers within 5 s"] == (True, "after 1 s")


def test_each_fault_of_an_overload_is_seen() -> None:
    assert failed(overload.judge(crowd(recovered_after=9), WINDOWS)) == ["recovers within 5 s"]
    assert failed(overload.judge(crowd(cause="Unreachable"), WINDOWS)) == ["refuses by name"]
    hang = trace(15.0, None, (), "aborted")
    assert failed(overload.judge([*crowd(), hang], WINDOWS)) == ["nothing hangs"]
    broken = trace(15.0, outcome="failed", cause="TimedOut(first_token)")
    assert failed(overload.judge([*crowd(), broken], WINDOWS)) == ["refuses by name"]
    early = trace(5.0, None, (), "rejected", "Overloaded")
    assert failed(overload.judge([*crowd(), early], WINDOWS)) == ["takes everything before"]
    late = [trace(20 + n, None, (), "rejected", "Overloaded") for n in range(9)]
    assert failed(overload.judge([*crowd(), *late], WINDOWS)) == ["recovers within 5 s"]
    polite = [one for one in crowd() if one.outcome == "complete"]
    assert failed(overload.judge(polite, WINDOWS)) == ["refuses what is too much"]


def samples(
    grow_mb: float = 0.0, threads: float = 0.0, shared_mb: float = 0.0, cache_mb: float = 0.0
) -> list[Sample]:
    """A hundred looks at a server of 500 MB that grows by so much a look."""
    return [
        Sample(
            float(n),
            {"a 1": int(5e8 + 1e6 * (grow_mb + cache_mb) * n)},
            {"a 1": 30 + int(threads * n)},
            int(1e6 * shared_mb * n),
            {
                "qwen3vl_kv_blocks_in_use": 3.0,
                "qwen3vl_requests_in_flight": 2.0,
                "qwen3vl_vision_cache_bytes": 1e6 * cache_mb * n,
            },
        )
        for n in range(100)
    ]


IDLE = Sample(
    101.0, {"a 1": 1}, {"a 1": 1}, 0, {"qwen3vl_kv_blocks_in_use": 0.0, "qwen3vl_requests_in_flight": 0.0}
)


def test_a_flat_soak_passes_and_each_growth_is_seen() -> None:
    assert failed(soak.judge(samples(), IDLE)) == []
    assert failed(soak.judge(samples(cache_mb=1.0), IDLE)) == []  # the cache has a budget of its own
    assert failed(soak.judge(samples(grow_mb=1.0), IDLE)) == ["resident memory stays"]
    assert failed(soak.judge(samples(threads=0.2), IDLE)) == ["threads stay"]
    assert failed(soak.judge(samples(shared_mb=1.0), IDLE)) == ["shared memory stays"]
    busy = samples()[-1]
    assert failed(soak.judge(samples(), busy)) == [
        "qwen3vl_kv_blocks_in_use is 0 at the end",
        "qwen3vl_requests_in_flight is 0 at the end",
    ]


def test_growth_is_a_slope_per_hour() -> None:
    assert growth_per_hour([0, 10, 20, 30], [5, 6, 7, 8]) == pytest.approx(360)
    figures = soak.figures(samples(grow_mb=0.5), IDLE)
    assert figures["growth_per_hour"]["resident MB a 1"] == pytest.approx(1800, rel=0.01)


def test_gauges_are_summed_over_labels() -> None:
    page = (
        "# HELP qwen3vl_kv_blocks_in_use x\n"
        'qwen3vl_kv_blocks_in_use{model="a",version="1"} 3\nqwen3vl_kv_blocks_in_use{model="b"} 4.5\n'
        "qwen3vl_active_sequences 2\nnv_other 9\n"
    )
    assert gauges(page) == {"qwen3vl_kv_blocks_in_use": 7.5, "qwen3vl_active_sequences": 2.0}


class Counted:
    """A server that only writes down what is done to it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def start(self) -> None:
        self.log.append(f"start {self.name}")

    def stop(self) -> int:
        self.log.append(f"stop {self.name}")
        return 0


def test_servers_are_restarted_one_after_the_other() -> None:
    log: list[str] = []
    assert restart.roll([Counted("a", log), Counted("b", log)], 0.0) == [0, 0]
    assert log == ["stop a", "start a", "stop b", "start b"]


def test_a_lost_request_or_a_cut_server_fails_a_restart() -> None:
    good = [trace(1.0, target="a:1"), trace(2.0, target="b:1", attempts=2)]
    addresses = ("a:1", "b:1")
    assert failed(restart.judge(good, [0, 0], 2, addresses)) == []
    assert failed(restart.judge(good, [0, 1], 2, addresses)) == ["every server drained"]
    assert failed(restart.judge(good, [0], 2, addresses)) == ["every server was restarted"]
    assert failed(restart.judge(good[:1], [0, 0], 2, addresses)) == ["every server served"]
    lost = trace(3.0, None, (), "rejected", "Draining")
    assert failed(restart.judge([*good, lost], [0, 0], 2, addresses)) == ["no request is lost"]


@pytest.mark.parametrize(
    "text", ["users=", "users=1.5", "users=2,1", "rate=0", "people=1", "users", "rate=1,1", "rate=inf"]
)
def test_a_wrong_ladder_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="ladder: got .*; allowed: users=N,N"):  # noqa: RUF043
        parse(text)


def test_ladders_and_durations() -> None:
    assert parse("rate=0.5,2") == Ladder("rate", (0.5, 2.0))
    assert [seconds(text) for text in ("20", "500ms", "1.5s", "10m")] == [20, 0.5, 1.5, 600]
    assert Timing.of(10.0) == Timing(10.0, 2.0, 1.0)
    with pytest.raises(ValueError, match="duration: got '5h'"):
        seconds("5h")


def test_a_wrong_command_line_ends_before_anything_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    to = ["--target", "127.0.0.1:9", "--out", "nowhere"]
    assert main(["run", *to, "--ladder", "users=0"]) == 2
    assert main(["run", *to, "--scenario", "nothing"]) == 2
    assert main(["overload", *to, "--knee", "missing.json"]) == 2
    told = capsys.readouterr().err
    assert "ladder: got 'users=0'" in told
    assert "scenario: got 'nothing'" in told
    assert "missing.json" in told
