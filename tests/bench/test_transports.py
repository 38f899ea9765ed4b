"""`symbiosis bench transports`: answers are verified, copies are seen and not claimed; and once for real."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from symbiosis_bench.transports.doorbell import Doorbell, serve_doorbells
from symbiosis_bench.transports.marks import Marks, payload_of
from symbiosis_bench.transports.messages import Measured, Place, Tally
from symbiosis_bench.transports.placement import (
    FREE,
    ONE_CORE,
    TWO_CORES,
    Cores,
    cores_of,
    not_possible,
    pinned,
    placements,
    put,
)
from symbiosis_bench.transports.places import place_of
from symbiosis_bench.transports.report import mismatches, ratios_of
from symbiosis_bench.transports.rows import Round, Row, row, with_overheads
from symbiosis_bench.transports.run import contenders, series
from symbiosis_bench.transports.settings import FULL, Cell, Settings, cells, numbers, words
from symbiosis_bench.transports.work import BURN, INVERT, LINEAR, STAMP, Asked, Work, asked, expected
from symbiosis_bench.transports.yardsticks import WAKE_FLOORS
from symbiosis_core.errors import UsageError

MAIN = [sys.executable, "-m", "symbiosis_core", "bench", "transports"]
SETTINGS = Settings(
    transports=("posix_shm",),
    sizes=(2304, 1 << 22),
    clients=(1, 4),
    computes=("0", "200"),
    spins=("off", "auto"),
    placements=(ONE_CORE, FREE),
    product=False,
    quick=False,
    scale=FULL,
)
HERE, ELSEWHERE = Place("00:01", 7, 4096), Place("00:01", 8, 4096)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.run([*MAIN, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_grid_varies_one_or_two_things_at_a_time_and_has_nothing_twice() -> None:
    grid = cells(SETTINGS)
    assert len(grid) == len(set(grid)) == 10
    assert Cell(1 << 22, 4, "0", "auto", FREE) not in grid
    assert Cell(2304, 1, "200", "off", FREE) in grid
    assert [cell for cell in grid if cell.placement == ONE_CORE] == [
        Cell(2304, 1, "0", "auto", ONE_CORE),
        Cell(1 << 22, 1, "0", "auto", ONE_CORE),
    ]


def test_every_combination_is_measured_where_it_is_asked_for() -> None:
    everything = Settings(
        **{name: getattr(SETTINGS, name) for name in SETTINGS.__struct_fields__} | {"product": True}
    )
    assert len(cells(everything)) == 2 * 2 * 2 * 2 * 2


def test_floors_are_measured_where_they_depend_on_something() -> None:
    bare, *others = cells(SETTINGS)
    assert bare == Cell(2304, 1, "0", "auto", ONE_CORE)
    found = series(SETTINGS, bare, WAKE_FLOORS)
    assert found[:2] == [
        ("wake_floor_same_core", Cell(2304, 1, "0", "auto", ONE_CORE)),
        ("wake_floor_across_cores", Cell(2304, 1, "0", "auto", TWO_CORES)),
    ]
    assert found[2:] == [(name, bare) for name in ("memory_floor", "raw_zmq_shm", "raw_zmq", "posix_shm")]
    assert not any(name in WAKE_FLOORS for cell in others for name, _ in series(SETTINGS, cell, WAKE_FLOORS))
    everything = msgspec.structs.replace(SETTINGS, product=True)
    floors = [
        cell
        for each in cells(everything)
        for name, cell in series(everything, each, WAKE_FLOORS)
        if name in WAKE_FLOORS
    ]
    assert floors == [cell for _, cell in found[:2]], "where the figures with targets look for them"
    assert "memory_floor" not in contenders(SETTINGS, Cell(2304, 4, "0", "auto", FREE))
    assert contenders(SETTINGS, Cell(2304, 1, "0", "off", FREE)) == ["posix_shm"]


def test_the_reference_is_measured_where_both_ends_can_be_in_one_process() -> None:
    settings = msgspec.structs.replace(SETTINGS, transports=("inproc",))
    inside = [
        where
        for where in (ONE_CORE, TWO_CORES, FREE)
        if "inproc" in contenders(settings, Cell(2304, 1, "0", "auto", where))
    ]
    assert inside == [ONE_CORE, FREE]


def test_a_placement_says_on_which_cores_each_side_runs() -> None:
    assert cores_of(ONE_CORE, (1, 2, 5)) == Cores((1,), (1,))
    assert cores_of(TWO_CORES, (1, 2, 5)) == Cores((1,), (5,))
    assert cores_of(FREE, (1, 2, 5)) == Cores((1, 2, 5), (1, 2, 5))


def test_with_one_core_there_is_one_placement_and_the_reason_is_told() -> None:
    assert placements("", {0, 1}) == (ONE_CORE, TWO_CORES, FREE)
    assert placements("free, one-core", {0, 1}) == (FREE, ONE_CORE)
    assert placements("", {3}) == (ONE_CORE,)
    assert set(not_possible({3})) == {TWO_CORES, FREE}
    with pytest.raises(UsageError, match="two-cores is not possible here: there is one core"):
        placements("one-core,two-cores", {3})
    with pytest.raises(UsageError, match="--placement apart: there are one-core, two-cores, free"):
        placements("apart,free", {0, 1})


def test_all_threads_of_a_process_are_put_and_come_back() -> None:
    usable, ended = os.sched_getaffinity(0), threading.Event()
    core = min(usable)
    thread = threading.Thread(target=ended.wait)
    thread.start()
    assert thread.native_id is not None  # it has started
    try:
        with pinned({core}):
            assert os.sched_getaffinity(thread.native_id) == os.sched_getaffinity(0) == {core}
        assert os.sched_getaffinity(thread.native_id) == os.sched_getaffinity(0) == usable
    finally:
        ended.set()
        thread.join()


def test_another_process_is_put_as_well() -> None:
    core = max(os.sched_getaffinity(0))
    with subprocess.Popen(["sleep", "60"]) as child:
        put(child.pid, {core})
        assert os.sched_getaffinity(child.pid) == {core}
        child.kill()


@pytest.mark.parametrize("compute", ["0", "200", "linear"])
def test_an_answer_belongs_to_one_call_of_one_payload(compute: str) -> None:
    """Neither the payload itself, nor the answer to the call before, passes for the answer."""
    ask, payload = asked(compute), payload_of(5 * 2304, seed=3)
    marks, answer = Marks(ask, payload), memoryview(bytearray(len(payload)))
    for call in (7, 8):
        assert not marks.found(call, answer)
        marks.put(call)
        assert not marks.found(call, payload)
        Work()([(ask.op, 0, payload, answer)])
        assert marks.found(call, answer)


@pytest.mark.parametrize("op", [INVERT, LINEAR])
def test_one_wrong_number_anywhere_is_found(op: int) -> None:
    ask, payload = Asked(LINEAR if op == LINEAR else INVERT), payload_of(3 * 2304, seed=3)
    answer = memoryview(bytearray(len(payload)))
    Work()([(*ask, payload, answer)])
    assert expected(ask.op, bytes(payload), bytes(answer))
    answer[2303] ^= 64  # the exponent of a float in the middle
    assert not expected(ask.op, bytes(payload), bytes(answer))


def test_work_on_several_requests_is_one_batch_and_all_of_it_is_done() -> None:
    work, payloads = Work(), [payload_of(2304, seed) for seed in range(3)]
    answers = [memoryview(bytearray(2304)) for _ in payloads]
    work([(*Asked(LINEAR), p, a) for p, a in zip(payloads, answers, strict=True)])
    assert all(expected(LINEAR, bytes(p), bytes(a)) for p, a in zip(payloads, answers, strict=True))
    assert (work.requests, work.batches) == (3, 1)


def test_what_is_asked_follows_from_the_option() -> None:
    assert [asked(text) for text in ("0", "200", "linear")] == [Asked(STAMP), Asked(BURN, 200), Asked(LINEAR)]


def test_a_place_is_the_same_for_all_who_map_it_and_no_other() -> None:
    fd = os.memfd_create("place")
    os.ftruncate(fd, 8192)
    ours, theirs = mmap.mmap(fd, 8192), mmap.mmap(fd, 8192)
    os.close(fd)
    assert place_of(memoryview(ours)) == place_of(memoryview(theirs)) is not None
    assert place_of(memoryview(ours)[4096:]) != place_of(memoryview(theirs))
    assert place_of(memoryview(bytearray(8192))) is None


def one_round(laps_ns: tuple[int, ...], *, wrong: int = 0, place: Place = HERE, copied_bytes: int = 0) -> Round:
    client = Measured(
        laps_ns=laps_ns, begin_s=1.0, end_s=1.5, wrong=0, doorbells=2, place=place, copied_bytes=copied_bytes
    )
    before = Tally(requests=10, batches=10, busy_ns=0, cpu_ns=0)
    after = Tally(requests=10 + len(laps_ns), batches=12, busy_ns=8000, cpu_ns=40_000, places=(HERE,))
    return Round((client,), wrong, before, after)


def made(
    *rounds: Round,
    transport: str = "posix_shm",
    size_bytes: int = 1000,
    compute: str = "0",
    placement: str = FREE,
) -> Row:
    cell = Cell(size_bytes, 1, compute, "auto", placement)
    return row(transport, cell, rounds, counts=transport == "posix_shm")


def test_a_row_is_what_was_told() -> None:
    found = made(one_round((1000, 2000, 3000, 9000)), one_round((5000, 5000, 5000, 5000)))
    assert (found.p50_us, found.rounds_p50_us, found.least_us) == (4.0, (3.0, 5.0), 1.0)
    assert (found.requests_per_s, found.gb_per_s) == (8.0, 2 * 1000 * 8 / 1e9)
    assert (found.compute_us, found.server_cpu_us, found.mean_batch) == (4.0, 10.0, 2.0)
    assert (found.doorbells, found.copies, found.same_memory, found.verified) == (0.5, 0.0, True, True)


def test_a_copy_and_a_wrong_answer_cannot_hide() -> None:
    found = made(one_round((1000, 1000), place=ELSEWHERE, copied_bytes=4000, wrong=1))
    assert (found.copies, found.same_memory, found.verified) == (2.0, False, False)
    assert mismatches([found]) == ["posix_shm answered wrongly: 1000 bytes, 1 clients, compute 0"]


def test_overhead_stands_above_the_same_copies_and_work() -> None:
    floor = made(one_round((1000, 1000)), transport="memory_floor")
    found = with_overheads([floor, made(one_round((5000, 5000))), made(one_round((5000,)), compute="200")])
    assert [one.overhead_us for one in found] == [0.0, 4.0, None]
    elsewhere = made(one_round((5000, 5000)), placement=ONE_CORE)
    assert with_overheads([floor, elsewhere])[1].overhead_us is None


def test_ratios_are_taken_round_by_round_and_judged_by_their_target() -> None:
    def at(transport: str, *laps_us: int) -> Row:
        return made(*(one_round((1000 * us,)) for us in laps_us), transport=transport, size_bytes=2304)

    rows = [at("posix_shm", 10, 30), at("raw_zmq_shm", 40, 120), at("wake_floor_same_core", 5, 20)]
    (placement, found), *others = ratios_of(rows, SETTINGS).items()
    assert (placement, others) == (FREE, [])
    assert found["shm_over_raw_zmq_shm"].spread.rounds == (0.25, 0.25)
    assert found["shm_over_raw_zmq_shm"].met is True
    assert found["shm_over_wake_floor_same_core"].met is False
    assert found["shm_copies"].met is True
    assert "shm_over_memory_floor" not in found


def test_ratios_compare_what_is_placed_alike_and_the_wake_floor_is_that_on_one_core() -> None:
    def at(transport: str, placement: str, us: int) -> Row:
        return made(one_round((1000 * us,)), transport=transport, size_bytes=2304, placement=placement)

    rows = [
        at("wake_floor_same_core", ONE_CORE, 10),
        at("wake_floor_across_cores", TWO_CORES, 30),
        *(at("posix_shm", *each) for each in ((ONE_CORE, 20), (FREE, 10))),
        *(at("raw_zmq_shm", *each) for each in ((ONE_CORE, 40), (FREE, 80))),
    ]
    found = ratios_of(rows, SETTINGS)
    assert {
        (placement, key): ratio.spread.median
        for placement, ratios in found.items()
        for key, ratio in ratios.items()
    } == {
        (ONE_CORE, "shm_over_raw_zmq_shm"): 0.5,
        (ONE_CORE, "shm_over_wake_floor_same_core"): 2.0,
        (ONE_CORE, "shm_copies"): 0.0,
        (FREE, "shm_over_raw_zmq_shm"): 0.125,
        (FREE, "shm_over_wake_floor_same_core"): 1.0,
        (FREE, "shm_copies"): 0.0,
    }


def test_memory_that_is_not_shared_is_a_copy_whatever_is_counted() -> None:
    """Nobody counts what is copied by mistake; that the pages are other ones, the kernel tells."""
    shared, apart, counted = (
        made(one_round((1000,), place=place, copied_bytes=bytes_), size_bytes=2304)
        for place, bytes_ in ((HERE, 0), (ELSEWHERE, 0), (HERE, 2304))
    )
    assert ratios_of([shared], SETTINGS)[FREE]["shm_copies"].met is True
    for copied in (apart, counted):
        found = ratios_of([copied], SETTINGS)[FREE]["shm_copies"]
        assert (found.spread.median, found.met) == (1.0, False)


@pytest.mark.parametrize("text", ["", "2304,x", "15", str(1 << 40)])
def test_a_size_that_is_none_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="--sizes"):
        numbers("--sizes", text, 16, 1 << 28)


def test_words_are_numbers_or_known() -> None:
    assert words("--spin", "off, 20,auto", ("off", "auto")) == ("off", "20", "auto")
    with pytest.raises(UsageError, match="--spin fast: write numbers, or off, auto"):
        words("--spin", "fast", ("off", "auto"))


def test_what_cannot_be_measured_is_told_before_anything_is_started(tmp_path: Path) -> None:
    for arguments, said in (
        (("--transports", "pigeon"), "--transports pigeon: there are cuda_ipc, posix_shm, inproc"),
        (("--transports", "posix_shm,cuda_ipc"), "cuda_ipc cannot be measured here: the client has not asked"),
        (("--transports", "inproc", "--clients", "2,4"), "--clients must name 1"),
        (("--sizes", "16"), "a row of --compute linear has 2304 bytes"),
        (("--spin", "20000"), "at most 10000 microseconds"),
        (("--placement", "apart"), "--placement apart: there are one-core, two-cores, free"),
    ):
        done = run(tmp_path, *arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr


def test_a_picture_without_matplotlib_is_a_clear_error(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "matplotlib.py").write_text("raise ImportError('it is hidden')")
    script = "from symbiosis_bench.plotting import check_plotting; check_plotting()"
    environment = {**os.environ, "PYTHONPATH": str(hidden)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "pip install 'symbiosis-llm[plot]'" in done.stderr.splitlines()[-1]


def test_the_benchmark_runs(tmp_path: Path) -> None:
    """For real and between processes, with all yardsticks; everything is verified and gone afterwards."""
    sizes = ("--sizes", "2304,100000", "--clients", "1,2", "--compute", "0", "--spin", "off,auto")
    drawn = importlib.util.find_spec("matplotlib") is not None
    done = run(tmp_path, "--quick", *sizes, "--json", "out.json", *(("--plot", "out.svg") if drawn else ()))
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert list(told) == ["machine", "surroundings", "settings", "not_measured", "ratios", "rows"]
    assert all(one["verified"] and one["p50_us"] > 0 for one in told["rows"])
    shm = [one for one in told["rows"] if one["transport"] == "posix_shm"]
    here = placements("", os.sched_getaffinity(0))
    assert {(one["size_bytes"], one["clients"], one["spin"], one["placement"]) for one in shm} == {
        (2304, 1, "off", here[-1]),
        (2304, 2, "auto", here[-1]),
        *((size, 1, "auto", where) for size in (2304, 100_000) for where in here),
    }
    assert all(one["same_memory"] is True and one["copies"] == 0 for one in shm)
    assert all(told["ratios"][where]["shm_copies"]["met"] is True for where in here)
    assert all(f"{where}: shm_over_raw_zmq_shm" in done.stdout for where in here)
    impossible = not_possible(os.sched_getaffinity(0))
    assert set(told["not_measured"]) == {"cuda_ipc", "inproc", *impossible}
    assert "cuda_ipc was not measured: the client has not asked for it" in done.stdout
    floors = {one["transport"]: one for one in told["rows"] if one["transport"] in WAKE_FLOORS}
    assert {name: one["placement"] for name, one in floors.items()} == {
        name: where for name, where in WAKE_FLOORS.items() if where not in impossible
    }
    assert all(0 < one["least_us"] <= one["p50_us"] <= one["p99_us"] for one in floors.values())
    if drawn:
        picture = ElementTree.parse(tmp_path / "out.svg").getroot()
        lines = [one for one in picture.iter() if one.get("id", "").startswith("line2d")]
        assert len(lines) >= 2 * len({one["transport"] for one in told["rows"]})
    assert not list(tmp_path.glob("symbiosis-*"))


def test_whoever_gives_bytes_back_says_so_once_it_can_be_connected_to(tmp_path: Path) -> None:
    endpoint, connected = str(tmp_path / "door"), []

    def connect() -> None:
        connected.append(Doorbell(endpoint))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        serve_doorbells(endpoint, connect)
    connected[0].close()


def test_with_one_core_it_runs_and_says_so(tmp_path: Path) -> None:
    core = str(min(os.sched_getaffinity(0)))
    asked = ("--quick", "--transports", "posix_shm", "--sizes", "2304", "--clients", "1", "--compute", "0")
    done = subprocess.run(
        ["taskset", "-c", core, *MAIN, *asked, "--json", "out.json"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert {one["placement"] for one in told["rows"]} == {"one-core"} == set(told["ratios"])
    assert "two-cores was not measured: there is one core that this process may use" in done.stdout


def test_the_reference_runs(tmp_path: Path) -> None:
    """Where it is asked for, both ends in the client: no server tells what it took, and nobody counts pages."""
    sizes = ("--sizes", "2304", "--clients", "1,2", "--compute", "0,linear", "--spin", "auto")
    done = run(tmp_path, "--quick", "--transports", "inproc", *sizes, "--json", "out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    rows = [one for one in told["rows"] if one["transport"] == "inproc"]
    here = placements("", os.sched_getaffinity(0))
    assert [(one["clients"], one["compute"], one["placement"], one["verified"]) for one in rows] == [
        *((1, "0", where, True) for where in here if where != TWO_CORES),
        (1, "linear", here[-1], True),
    ]
    assert all(one["server_cpu_us"] is None and one["same_memory"] is None for one in rows)
    assert told["not_measured"]["posix_shm"] == "it was not asked for"
