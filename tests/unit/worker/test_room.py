"""What a worker takes on, given what a machine has left."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from contree.worker.room import QEMU_BYTES, FixedAdmission, GuestAdmission

GIB = 1024**3
EACH = GIB  # of memory, a guest and its QEMU


@dataclass(slots=True)
class Machine:
    core_count: float = 4
    available_bytes: int = 100 * GIB

    def cores(self) -> float:
        return self.core_count

    def memory_available_bytes(self) -> int:
        return self.available_bytes


def admission(machine: Machine, *, held_bytes: int = 0, most: int | None = None) -> GuestAdmission:
    return GuestAdmission(
        host=machine,
        held_bytes=lambda: held_bytes,
        memory_bytes=EACH - QEMU_BYTES,
        vcpu_count=1,
        cpu_overcommit=1.0,
        reserve_bytes=GIB,
        most=most,
    )


@pytest.mark.parametrize(
    ("cores", "overcommit", "vcpus", "most"),
    [(4, 1.0, 1, 4), (4, 2.5, 1, 10), (4, 1.0, 2, 2), (4, 1.0, 8, 1), (0.5, 1.0, 1, 1)],
)
def test_cores_bound_runs(cores: float, overcommit: float, vcpus: int, most: int) -> None:
    given = replace(admission(Machine(cores)), cpu_overcommit=overcommit, vcpu_count=vcpus)
    assert [given.room(running).more for running in (0, most - 1, most, most + 1)] == [
        most, 1, 0, 0,
    ]  # fmt: skip
    assert given.room(most).bound == "CPU"


def test_memory_bounds_runs_and_the_reserve_stays() -> None:
    room = admission(Machine(available_bytes=3 * GIB + GIB // 2)).room(0)
    assert (room.more, room.bound) == (2, "memory")
    assert "3584 MiB available - memory_reserve_mib 1024" in room.reason


def test_what_running_guests_have_not_touched_yet_is_kept_for_them() -> None:
    machine = Machine(available_bytes=4 * GIB)
    assert admission(machine, held_bytes=0).room(2).more == 1
    assert admission(machine, held_bytes=2 * EACH).room(2).more == 2, "they have all of theirs"
    assert admission(machine, held_bytes=5 * EACH).room(2).more == 2, "QEMU took more: no credit"


def test_a_bound_of_ones_own_holds_whatever_room_there_is() -> None:
    room = admission(Machine(), most=3).room(1)
    assert (room.more, room.bound) == (2, "instances_here")
    assert admission(Machine(core_count=2), most=3).room(0).bound == "CPU"


def test_a_worker_that_runs_nothing_takes_one() -> None:
    starved = admission(Machine(available_bytes=0))
    assert starved.room(0).more == 1
    assert "but nothing runs" in starved.room(0).reason
    assert starved.room(1).more == 0


def test_a_fixed_number_is_never_passed() -> None:
    fixed = FixedAdmission(most=2, setting="imports_here")
    assert [fixed.room(running).more for running in (0, 1, 2, 3)] == [2, 1, 0, 0]
    assert fixed.room(2).bound == "imports_here"


@pytest.mark.parametrize(
    ("available", "held", "waiting"),
    [(10, 0, 4), (7, 0, 2), (4, 3, 2), (5, 0, 0), (0, 0, 0)],
    ids=["plenty", "some", "guests there count with what they hold", "runs come first", "none"],
)
def test_guests_wait_in_memory_that_runs_can_not_use(
    available: int, held: int, waiting: int
) -> None:
    machine = Machine(core_count=4, available_bytes=available * GIB)
    assert admission(machine, held_bytes=held * EACH).waiting(4) == waiting


def test_a_bound_on_runs_leaves_their_memory_to_guests_that_wait() -> None:
    machine = Machine(core_count=4, available_bytes=5 * GIB)
    assert admission(machine, most=1).waiting(9) == 3
