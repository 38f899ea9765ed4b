"""How many LoRA jobs fit on one GPU, and how fast they are together: on one shared base, and with a base each.

Jobs are started one after the other, and each makes a step, until the next finds no room: torch says so, or all
together hold more than the limit that was given. Then all that fit train at once. The two ways cannot have the GPU
at the same time, so they do not take turns: what the machine does meanwhile is in their quotient.

On a CPU, where memory is what processes really take, the limit must be given. That tries the program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from symbiosis_bench.end_to_end.crew import Crew, NoRoomError
from symbiosis_bench.end_to_end.daemons import Daemon
from symbiosis_bench.end_to_end.figures import JOBS, Figure, figure
from symbiosis_bench.end_to_end.kinds import Kind
from symbiosis_bench.end_to_end.memory_share import held
from symbiosis_bench.end_to_end.messages import Measured, Train, Trained
from symbiosis_bench.end_to_end.pairs import reports
from symbiosis_bench.end_to_end.site import Site
from symbiosis_bench.end_to_end.verification import Check
from symbiosis_bench.failure import BenchFailedError
from symbiosis_bench.spread import Spread, spread

__all__ = ["jobs_on_one_gpu", "lasted_s", "stopped"]


class Ran(NamedTuple):
    """All jobs of one way, at once, round by round."""

    crew: Crew
    held_bytes: list[int]
    """By all together, the daemon included."""
    rounds: list[list[Trained]]
    notes: dict[str, str]
    stopped: str = ""
    """Why no more were started."""


def jobs_on_one_gpu(site: Site, wanted: frozenset[str]) -> Iterator[tuple[str, Figure]]:
    """Yields `jobs_on_one_gpu`: how many shared jobs fit, over how many with a base each."""
    site.leave_main()  # it would take room
    with site.base(site.scale.jobs_base) as folder:
        with site.daemon_on(folder) as daemon:
            shared = _run(site, Kind.SPLIT, folder, daemon)
        dedicated = _run(site, Kind.PLAIN, folder, None)
    jobs = {"shared_jobs": shared.crew.members, "dedicated_jobs": dedicated.crew.members}
    notes = shared.notes | dedicated.notes | {"base": str(site.scale.jobs_base)}
    notes["stopped"] = f"shared: {shared.stopped}; dedicated: {dedicated.stopped}"
    notes["compared"] = f"the losses of {min(jobs.values())} jobs, which both ways have"
    beside = {name: spread([float(number)]) for name, number in jobs.items()}
    beside |= _beside("shared", shared) | _beside("dedicated", dedicated)
    more = spread([shared.crew.members / dedicated.crew.members])
    checks = _check(site, shared, dedicated)
    yield JOBS, figure(JOBS, more, quick=site.settings.quick, checks=checks, beside=beside, notes=notes)


def _run(site: Site, kind: Kind, folder: str, daemon: Daemon | None) -> Ran:
    """Starts jobs until no more fit, and has those that do train at once.

    Raises:
        BenchFailedError: not one fits.
    """
    jobs: list[Crew] = []
    try:
        while len(jobs) < site.scale.jobs_most and _started(site, jobs, kind, folder, daemon):
            pass
        while jobs:
            site.progress.say(f"{JOBS}: {len(jobs)} x {kind} at once")
            if (ran := _at_once(site, site.together(jobs))) is not None:
                return ran._replace(stopped=stopped(ran.crew.members, site.scale.jobs_most))
            jobs.pop().end()  # at once they take more than one after the other
        raise BenchFailedError(f"{JOBS}: not one {kind} job fits")
    finally:
        for job in jobs:
            job.end()


def stopped(jobs: int, most: int) -> str:
    """Returns why so many jobs run and no more."""
    return "no room" if jobs < most else "the most that are started"


def _started(site: Site, jobs: list[Crew], kind: Kind, folder: str, daemon: Daemon | None) -> bool:
    """Starts one more job and has it make a step. Says whether there was room; if not, it is ended."""
    site.progress.say(f"{JOBS}: {kind} number {len(jobs) + 1}")
    try:
        jobs.append(site.job(kind, folder, daemon, client=len(jobs)))
    except NoRoomError:
        return False
    (told,) = jobs[-1].perform(Measured, Train(site.scale.jobs_shape, 1))
    if isinstance(told, Trained) and _fits(site, _held(site.together(jobs), [told])):
        return True
    jobs.pop().end()
    return False


def _at_once(site: Site, crew: Crew) -> Ran | None:
    """Has all of them train; None: one found no room."""
    ran = Ran(crew, [], [], reports(crew))
    for _ in range(site.scale.crowd_rounds):
        answers = crew.perform(Measured, Train(site.scale.jobs_shape, site.scale.jobs_steps))
        trained = [answer for answer in answers if isinstance(answer, Trained)]
        ran.held_bytes.append(_held(crew, answers))
        ran.rounds.append(trained)
        if len(trained) < crew.members or not _fits(site, ran.held_bytes[-1]):
            return None
    return ran


def _held(crew: Crew, answers: Sequence[Measured]) -> int:
    return sum(held(answers, crew.pids, crew.daemon))


def _fits(site: Site, held_bytes: int) -> bool:
    return site.settings.limit_bytes is None or held_bytes <= site.settings.limit_bytes


def _beside(way: str, ran: Ran) -> dict[str, Spread]:
    """Returns how long all jobs took, how many steps they made a second, and what one of them holds."""
    steps = sum(len(trained.losses) for trained in ran.rounds[0])
    taken_s = [lasted_s(trained) for trained in ran.rounds]
    return {
        f"{way}_s": spread(taken_s),
        f"{way}_steps_per_s": spread([steps / seconds for seconds in taken_s]),
        f"{way}_bytes": spread(ran.held_bytes),
        f"{way}_bytes_per_job": spread([taken / ran.crew.members for taken in ran.held_bytes]),
    }


def lasted_s(trained: Sequence[Trained]) -> float:
    """Returns the time from the first job's beginning to the last one's end."""
    return max(one.stamps_s[-1] for one in trained) - min(one.stamps_s[0] for one in trained)


def _check(site: Site, shared: Ran, dedicated: Ran) -> list[Check]:
    """Checks the jobs that both ways have: those with the same number, and so the same adapter and text."""
    checks = []
    for number, (ours, theirs) in enumerate(zip(shared.crew.ready, dedicated.crew.ready, strict=False)):
        checks.append(site.verifier.adapters(f"job {number}", ours.adapter, theirs.adapter))
        for trained in shared.rounds:
            reference = dedicated.rounds[-1][number]
            checks.append(site.verifier.losses(f"job {number}", trained[number], reference))
    return checks
