"""The Operation aggregate against a model: hypothesis plays any sequence of commands on both."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from contree.domain.aggregate import Aggregate, Event
from contree.domain.context import Context
from contree.domain.errors import InvalidTransitionError
from contree.domain.operation import ATTEMPTS_MAX, Operation, Status
from contree.domain.subprocess import SubprocessSpec
from tests.fakes.clock import FakeClock, FakeIds
from tests.support.histories import a_spec, context_at

RUNNING = {"ASSIGNED", "EXECUTING"}
ENDED = {"SUCCESS", "FAILED", "CANCELLED"}


class OperationMachine(RuleBasedStateMachine):
    """The model is a few plain values; the aggregate must agree with them after every command."""

    def __init__(self) -> None:
        super().__init__()
        self.ids, self.clock = FakeIds(), FakeClock()
        self.project_id = self.ids.new_id()
        self.events: list[Event] = []
        self.status = "PENDING"
        self.attempts = self.lost = 0
        self.wish = False
        self.running_s = 0.0
        self.last_spid = 1

    @initialize(is_import=st.booleans())
    def request(self, is_import: bool) -> None:
        self.is_instance = not is_import
        context, operation_id = context_at(self.clock, self.project_id), self.ids.new_id()
        if is_import:
            self.operation = Operation.request_import(
                context,
                operation_id=operation_id,
                registry_url="docker://r/i:t",
                username=None,
                tag=None,
                timeout_s=5,
            )
        else:
            self.operation = Operation.request_instance(
                context, operation_id=operation_id, spec=a_spec(self.ids.new_id())
            )

    def play(self, command: Callable[[], None], *, allowed: bool) -> bool:
        """Run a command; say whether it was done. A refusal must record nothing."""
        self.collect()
        try:
            command()
        except InvalidTransitionError:
            assert not allowed
            assert not self.operation.pending_events
            return False
        assert allowed
        return True

    def collect(self) -> None:
        self.events += self.operation.collect_events()

    @property
    def context(self) -> Context:
        return context_at(self.clock, self.project_id)

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def assign(self) -> None:
        lease = self.clock.now() + timedelta(seconds=9)
        done = self.play(
            lambda: self.operation.assign(self.context, worker="w", lease_until=lease),
            allowed=self.status == "PENDING",
        )
        if done:
            self.status, self.attempts, self.began = "ASSIGNED", self.attempts + 1, self.clock.now()

    @rule()
    def start(self) -> None:
        allowed = self.status == "ASSIGNED"
        if self.play(lambda: self.operation.start(self.context), allowed=allowed):
            self.status = "EXECUTING"

    @rule(above=st.integers(-1, 3))
    def spawn_subprocess(self, above: int) -> None:
        spid = self.last_spid + above
        done = self.play(
            lambda: self.operation.subprocess_spawned(
                self.context, spid=spid, pid=9, spec=SubprocessSpec(command="true")
            ),
            allowed=self.status in RUNNING and self.is_instance and above > 0,
        )
        self.last_spid = spid if done else self.last_spid

    @rule()
    def signal(self) -> None:
        self.play(
            lambda: self.operation.signalled(self.context, spid=1, signal=15),
            allowed=self.status in RUNNING and self.is_instance,
        )

    @rule(counted=st.booleans())
    def lose(self, counted: bool) -> None:
        done = self.play(
            lambda: self.operation.lose(self.context, reason="gone", counted=counted),
            allowed=self.status in RUNNING,
        )
        if done and self.wish:
            self.status = "CANCELLED"
        elif done and counted and self.lost + 1 == ATTEMPTS_MAX:
            self.status = "FAILED"
        elif done:
            self.status, self.lost = "PENDING", self.lost + counted

    @rule()
    def cancel(self) -> None:
        done = self.play(
            lambda: self.operation.cancel(self.context),
            allowed=self.status not in ENDED,
        )
        if done and self.status == "PENDING":
            self.status = "CANCELLED"
        elif done:
            self.wish = True

    @rule()
    def cancelled(self) -> None:
        done = self.play(
            lambda: self.operation.cancelled(self.context),
            allowed=self.status in RUNNING,
        )
        self.status = "CANCELLED" if done else self.status

    @rule()
    def succeed(self) -> None:
        done = self.play(
            lambda: self.operation.succeed(self.context, result_image_id=None),
            allowed=self.status in RUNNING,
        )
        self.status = "SUCCESS" if done else self.status

    @rule()
    def fail(self) -> None:
        done = self.play(
            lambda: self.operation.fail(self.context, error="no"),
            allowed=self.status not in ENDED,
        )
        self.status = "FAILED" if done else self.status

    @invariant()
    def aggregate_and_model_agree(self) -> None:
        assert self.operation.status.value == self.status
        assert self.operation.attempts == self.attempts
        assert self.operation.attempts_lost == self.lost < ATTEMPTS_MAX
        assert self.operation.cancellation_requested == self.wish
        assert self.operation.last_spid == self.last_spid
        assert self.operation.status.is_running == (self.status in RUNNING)
        assert self.operation.status.is_terminal == (self.status in ENDED)

    @invariant()
    def folding_the_events_gives_the_same_operation(self) -> None:
        self.collect()
        folded: Aggregate | None = None
        for event in self.events:
            folded = event.mutate(folded)
        assert folded == self.operation

    @invariant()
    def the_end_is_recorded_once_with_a_duration_that_time_allows(self) -> None:
        ends = [e for e in self.events if hasattr(e, "duration_us")]
        assert len(ends) == (self.status in ENDED)
        for end in ends:
            elapsed = end.timestamp - self.events[0].timestamp
            assert 0 <= end.duration_us <= elapsed / timedelta(microseconds=1)


OperationMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, database=None
)
TestOperationStateMachine = OperationMachine.TestCase


def test_an_interruption_is_not_an_attempt() -> None:
    ids, clock = FakeIds(), FakeClock()
    context = context_at(clock, ids.new_id())
    operation = Operation.request_instance(
        context, operation_id=ids.new_id(), spec=a_spec(ids.new_id())
    )
    numbers = []
    for counted in [False] * 5 + [True, False, True, False, True]:
        operation.assign(context, worker="w", lease_until=clock.now())
        numbers.append(operation.attempts)
        operation.lose(context, reason="QEMU was killed", counted=counted)
    assert numbers == list(range(1, 11)), "each attempt is fenced by a number of its own"
    assert operation.status is Status.FAILED
    ended = operation.pending_events[-1]
    assert vars(ended)["error"] == "gave up after 3 attempts: QEMU was killed"


def test_every_status_word_is_one_of_the_model() -> None:
    assert {s.value for s in Status} == {"PENDING"} | RUNNING | ENDED
