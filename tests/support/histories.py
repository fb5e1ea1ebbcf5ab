"""Histories of the whole domain, made by the aggregates themselves: builders and a random walk.

`History` plays use cases without I/O: it decides through aggregates and keeps what was decided, so
that a test may append the same history to any log.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from contree.domain.aggregate import Aggregate
from contree.domain.audit_reading import AuditReading
from contree.domain.context import Context
from contree.domain.file import File, file_id_of
from contree.domain.image import Image, RecordedEnvironment, imported_image_id
from contree.domain.instance import FilePlacement, InstanceSpec, Stdin
from contree.domain.operation import Operation, Status
from contree.domain.outcome import CapturedStream, ProcessOutcome
from contree.domain.project import Project, Removal
from contree.domain.spec_body import Body
from contree.domain.subprocess import SubprocessSpec
from contree.domain.tag import Tag, tag_id_of
from contree.domain.token import Permission, Token
from tests.fakes.clock import EPOCH, FakeClock, FakeIds

NO_STREAM = CapturedStream(sha256=hashlib.sha256(b"").hexdigest(), size_bytes=0)


SEALED = RecordedEnvironment(preserved_env={"LANG": "<SEALED>"}, preserved_env_sealed="c2VhbGVk")
A_STDIN = Stdin(sha256=hashlib.sha256(b"in").hexdigest(), size_bytes=2, close=False)


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


A_BODY = Body(sha256=digest_of("body"), size_bytes=4)


def a_body(id_: UUID) -> Body | None:
    """Every other one has one."""
    return A_BODY if id_.int // 2 % 2 else None


def stored_environment(id_: UUID) -> RecordedEnvironment:
    body = a_body(id_)
    return SEALED if body is None else RecordedEnvironment(body=body)


def context_at(clock: FakeClock, project_id: UUID, *, actor: str = "tester") -> Context:
    return Context(actor=actor, project_id=project_id, request_id="request-1", at=clock.now())


def a_spec(image_id: UUID, *, command: str = "true", **fields: object) -> InstanceSpec:
    return replace(InstanceSpec(image_id=image_id, command=command, timeout_s=30), **fields)


def an_outcome(*, exit_code: int = 0) -> ProcessOutcome:
    return ProcessOutcome(
        pid=7,
        exit_code=exit_code,
        signal=-1,
        core_dumped=False,
        timed_out=False,
        oom_killed=False,
        duration_us=1234,
        stdout=NO_STREAM,
        stderr=NO_STREAM,
    )


def a_subprocess(**fields: object) -> SubprocessSpec:
    return replace(SubprocessSpec(command="cat", args=("-u", "\u00fc")), **fields)


def removed(project: Project, context: Context, cause: Removal) -> None:
    project.content_removed(
        context,
        cause=cause,
        complete=context.at.microsecond % 2 == 0,
        journal_count=3,
        blob_count=2,
        blob_bytes=1 << 40,
    )


class History:
    """A random walk over the domain's commands, reproducible from its seed.

    Histories of different `space` (the seed unless given) never share an id.
    """

    def __init__(
        self, seed: int | random.Random, *, space: int | None = None, projects: int = 2
    ) -> None:
        if isinstance(seed, int):
            space, seed = seed if space is None else space, random.Random(seed)
        assert space is not None
        self._random = seed
        self._clock = FakeClock()
        self._ids = FakeIds(space=space)
        self.aggregates: dict[UUID, Aggregate] = {}
        self.project_ids: list[UUID] = []
        for number in range(projects):
            name = f"project-{space}-{number}"
            project = Project.create(self._context(UUID(int=0)), name=name)
            self.project_ids.append(project.id)
            self.aggregates[project.id] = project

    def step(self) -> Sequence[Aggregate]:
        """Decide one thing; return the aggregates it touched, with their events pending."""
        moves = (
            *(self._token, self._revoke, self._upload, self._import, self._import),
            *(self._run, self._run, self._run, self._run),
            *(self._advance,) * 12,
            *(self._tag, self._tag, self._untag),
            self._look,
            self._keep_or_remove,
        )
        while True:
            self._clock.advance(self._random.choice((0, 0.000001, 0.5, 3)))
            touched = [a for a in self._random.choice(moves)() if a.pending_events]
            if touched:
                return touched

    def steps(self, count: int) -> list[Sequence[Aggregate]]:
        """The projects, then `count` decisions; not to be mixed with appending in between."""
        first = [a for a in self.aggregates.values() if a.pending_events]
        return [first, *(self.step() for _ in range(count))]

    def _context(self, project_id: UUID) -> Context:
        return context_at(self._clock, project_id, actor=f"actor-{self._random.randrange(3)}")

    def _any_project(self) -> UUID:
        return self._random.choice(self.project_ids)

    def _some(self, kind: type[Aggregate]) -> list[Aggregate]:
        return [a for a in self.aggregates.values() if isinstance(a, kind)]

    def _keep(self, *aggregates: Aggregate) -> Sequence[Aggregate]:
        for aggregate in aggregates:
            self.aggregates[aggregate.id] = aggregate
        return aggregates

    def _token(self) -> Sequence[Aggregate]:
        token_id = self._ids.new_id()
        expires_at = self._random.choice((None, EPOCH + timedelta(days=30)))
        return self._keep(
            Token.issue(
                self._context(self._any_project()),
                token_id=token_id,
                secret_sha256=digest_of(str(token_id)),
                permissions=self._random.sample(list(Permission), 2),
                expires_at=expires_at,
            )
        )

    def _revoke(self) -> Sequence[Aggregate]:
        for token in self._some(Token):
            assert isinstance(token, Token)
            if not token.revoked:
                token.revoke(self._context(self._any_project()))
                return (token,)
        return ()

    def _keep_or_remove(self) -> Sequence[Aggregate]:
        """Something becomes of a project's content."""
        project = self.aggregates[self._any_project()]
        assert isinstance(project, Project)
        context = self._context(project.id)
        if project.hold_reason is not None:
            project.release(context)
        elif project.erased_at is not None:
            removed(project, context, Removal.ERASURE)
        else:
            match self._random.randrange(12):
                case 0:
                    project.erase(context, reason="asked to")
                case 1 | 2 | 3:
                    project.hold(context, reason="case 7")
                case 4 | 5 | 6 | 7:
                    project.set_retention(context, days=self._random.choice((None, 1, 30)))
                case _ if (cut := project.retention_cut(context.at)) is not None:
                    project.apply_retention(context, cut=cut, operation_count=2)
                case _ if project.content_cut is not None:
                    removed(project, context, Removal.RETENTION)
        return (project,)

    def _upload(self) -> Sequence[Aggregate]:
        project_id = self._any_project()
        sha256 = digest_of(str(self._random.randrange(5)))
        known = self.aggregates.get(file_id_of(project_id, sha256))
        if isinstance(known, File):
            known.upload_again(self._context(project_id))
            return (known,)
        return self._keep(File.upload(self._context(project_id), sha256=sha256, size_bytes=11))

    def _import(self) -> Sequence[Aggregate]:
        return self._keep(
            Operation.request_import(
                self._context(self._any_project()),
                operation_id=self._ids.new_id(),
                registry_url=f"docker://localhost:5000/image:{self._random.randrange(6)}",
                username=self._random.choice((None, "nutzer-\u00e4")),
                tag=self._random.choice((None, "base:latest")),
                timeout_s=300,
            )
        )

    def _run(self) -> Sequence[Aggregate]:
        images = self._some(Image)
        if not images:
            return ()
        image = self._random.choice(images)
        spec = a_spec(
            image.id,
            command="echo \u00fc \U0001f600 'quoted' \\ \"\n$1 $22 %s {}",
            args=("a", ""),
            env={"LANG": "C", "GONE": None, "_type_": "uuid_hex"},
            stdin=self._random.choice((None, Stdin(sha256=digest_of("x"), size_bytes=1))),
            files={"/work/a b": FilePlacement(file_id=self._ids.new_id(), mode=0o600)},
            disposable=self._random.random() < 0.3,
        )
        context, operation_id = self._context(self._project_of(image)), self._ids.new_id()
        spec = replace(spec, body=a_body(operation_id))
        return self._keep(Operation.request_instance(context, operation_id=operation_id, spec=spec))

    def _advance(self) -> Sequence[Aggregate]:
        """Take a live operation one step on, whatever may happen to it next."""
        live = [o for o in self._some(Operation) if not o.status.is_terminal]
        if not live:
            return ()
        operation = self._random.choice(live)
        assert isinstance(operation, Operation)
        context = self._context(operation.project_id)
        if operation.status is Status.PENDING and self._random.random() < 0.85:
            worker = self._random.choice(("worker-a", "worker-b"))
            operation.assign(context, worker=worker, lease_until=context.at + timedelta(seconds=60))
        elif operation.status is Status.ASSIGNED and self._random.random() < 0.7:
            operation.start(context, accelerator="tcg", network=None)
        elif operation.status.is_running and self._random.random() < 0.2 and operation.spec:
            self._steer(operation, context)
        elif operation.status.is_running:
            return self._end(operation, context)
        else:
            operation.cancel(context)
        return (operation,)

    def _steer(self, operation: Operation, context: Context) -> None:
        """A client starts another process, or signals one."""
        if self._random.random() < 0.5:
            spid = operation.last_spid + self._random.choice((1, 2))  # one may have been refused
            body = A_BODY if spid % 2 else None
            spec = a_subprocess(env={"API_KEY": "<MASKED>", "GONE": None}, stdin=A_STDIN, body=body)
            operation.subprocess_spawned(context, spid=spid, pid=99, spec=spec)
        else:
            operation.signalled(context, spid=operation.last_spid, signal=2)

    def _end(self, operation: Operation, context: Context) -> Sequence[Aggregate]:
        match self._random.randrange(6):
            case 0:
                operation.lose(
                    context, reason="the machine was lost", counted=operation.attempts % 2 == 1
                )
            case 1:
                operation.fail(context, error="the registry said \0 no", outcome=None)
            case 2:
                operation.cancel(context)
            case 3 if operation.cancellation_requested:
                operation.cancelled(context, journal_sha256=digest_of("journal"))
            case _:
                return self._succeed(operation, context)
        return (operation,)

    def _succeed(self, operation: Operation, context: Context) -> Sequence[Aggregate]:
        image = self._imported(operation, context)
        if operation.spec is not None:
            source = self.aggregates[operation.spec.image_id]
            assert isinstance(source, Image)
            image = source.committed(
                context,
                operation_id=operation.id,
                layer=f"sha256:{digest_of(str(operation.id))}" if operation.id.int % 3 else None,
                environment=stored_environment(operation.id) if operation.id.int % 2 else None,
                workdir="/work",
                size_bytes=self._random.randrange(1 << 40),
            )
        kept = image is not None and image.id not in self.aggregates
        operation.succeed(
            context,
            result_image_id=None if image is None else image.id,
            result_tag=operation.tag,
            image_size_bytes=None if image is None else image.size_bytes,
            outcome=None if operation.spec is None else an_outcome(exit_code=3),
            journal_sha256=digest_of("journal"),
        )
        return self._keep(image, operation) if kept and image is not None else (operation,)

    def _imported(self, operation: Operation, context: Context) -> Image | None:
        if operation.registry_url is None:
            return None
        config_digest = f"sha256:{digest_of(operation.registry_url)}"
        known = self.aggregates.get(imported_image_id(context.project_id, config_digest))
        if isinstance(known, Image):
            return known
        return Image.imported(
            context,
            operation_id=operation.id,
            registry_url=operation.registry_url,
            manifest_digest=f"sha256:{digest_of('manifest')}",
            config_digest=config_digest,
            layers=[f"sha256:{digest_of('layer')}"],
            environment=RecordedEnvironment(env={"PATH": "/bin", "_data_": "x"})
            if a_body(operation.id) is None
            else RecordedEnvironment(body=a_body(operation.id)),
            workdir="/",
            size_bytes=123,
        )

    def _tag(self) -> Sequence[Aggregate]:
        images = self._some(Image)
        if not images:
            return ()
        image = self._random.choice(images)
        name = self._random.choice(("base", "base:latest", "team/base.v1", "winner"))
        context = self._context(self._project_of(image))
        known = self.aggregates.get(tag_id_of(context.project_id, name))
        if isinstance(known, Tag):
            known.move(context, image_id=image.id)
            return (known,)
        return self._keep(Tag.assign(context, name=name, image_id=image.id))

    def _untag(self) -> Sequence[Aggregate]:
        for tag in self._some(Tag):
            assert isinstance(tag, Tag)
            if tag.image_id is not None:
                tag.remove(self._context(self._project_of(self.aggregates[tag.image_id])))
                return (tag,)
        return ()

    def _look(self) -> Sequence[Aggregate]:
        """Somebody reads the history."""
        return self._keep(
            AuditReading.record(
                self._context(self._any_project()),
                reading_id=self._ids.new_id(),
                subject="events",
                query={"actor": "a", "limit": "10"},
                found=3,
            )
        )

    def _project_of(self, image: Aggregate) -> UUID:
        assert isinstance(image, Image)
        return image.project_id
