-- The schema as it is now, for reading. Databases arrive at it by migrations/*.sql; the test
-- tests/postgres/test_schema.py proves that both are the same. Read models are not here: their
-- tables belong to contree.projections and live in the schema "read".

-- The append-only log. One row an event, in the table layout of the eventsourcing library, which
-- reads and writes it unmodified; our additions are filled in by triggers and defaults.

CREATE TABLE public.stored_events (
    originator_id      uuid        NOT NULL,
    originator_version bigint      NOT NULL,
    topic              text        NOT NULL,
    state              bytea       NOT NULL,
    notification_id    bigint      GENERATED ALWAYS AS IDENTITY,
    recorded_at        timestamptz NOT NULL,
    hash               bytea       NOT NULL,
    PRIMARY KEY (originator_id, originator_version)
);
CREATE UNIQUE INDEX stored_events_notification_id_idx ON public.stored_events (notification_id);

-- The last event of each kind, for aggregates that are loaded from these alone (ADR 19). Only kinds
-- that may be recorded any number of times, or that lie among such: the other events cost nothing.
CREATE INDEX stored_events_last_idx
    ON public.stored_events (originator_id, topic, originator_version)
    WHERE topic IN (
        'contree.file.uploaded_again',
        'contree.project.content_removed',
        'contree.project.erased',
        'contree.project.held',
        'contree.project.released',
        'contree.project.retention_applied',
        'contree.project.retention_set',
        'contree.tag.moved',
        'contree.tag.removed',
        'contree.token.revoked'
    );

-- Every writer takes this lock before its first id is drawn (a statement trigger fires before any
-- row and its defaults), and keeps it to the end of its commit: ids are in commit order, so a
-- reader that remembers the last id it saw misses nothing. A snapshot older than the lock would
-- read a stale end of the chain, hence READ COMMITTED only. The notification goes out at commit.
--
-- One expression, because plpgsql evaluates it in place; PERFORM starts an executor for each call.
CREATE FUNCTION public.stored_events_lock() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'appending to the event log needs READ COMMITTED, this transaction is %',
            upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    done := pg_advisory_xact_lock(TG_RELID::bigint) IS NOT NULL
        AND pg_notify('stored_events', '') IS NOT NULL;
    RETURN NULL;
END $$;

-- hash = sha256(previous hash || id || originator || version || time || topic || state): lengths
-- before what varies, integers big-endian, time as microseconds since 2000-01-01 UTC.
--
-- Followers of an operation look again when its journal has grown (the journal's writer says so)
-- and when it has ended (this trigger). Both go by one channel, with the operation's id.
CREATE FUNCTION public.stored_events_chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    previous record;
    topic_bytes bytea := convert_to(NEW.topic, 'UTF8');
    done boolean;
BEGIN
    SELECT notification_id, hash INTO previous
        FROM public.stored_events ORDER BY notification_id DESC LIMIT 1;
    IF previous.notification_id >= NEW.notification_id THEN
        RAISE EXCEPTION 'event id % is not beyond the last one, %',
            NEW.notification_id, previous.notification_id
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    NEW.recorded_at := clock_timestamp();
    NEW.hash := sha256(
        coalesce(previous.hash, '\x'::bytea)
        || int8send(NEW.notification_id) || uuid_send(NEW.originator_id)
        || int8send(NEW.originator_version) || timestamptz_send(NEW.recorded_at)
        || int4send(octet_length(topic_bytes)) || topic_bytes
        || int4send(octet_length(NEW.state)) || NEW.state);
    IF NEW.topic IN ('contree.operation.succeeded', 'contree.operation.failed',
                     'contree.operation.cancelled') THEN
        done := pg_notify('operation_news', NEW.originator_id::text) IS NOT NULL;
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION public.stored_events_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is not allowed: the event log is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;

-- Triggers of one kind fire in the order of their names.
CREATE TRIGGER a_lock BEFORE INSERT ON public.stored_events
    FOR EACH STATEMENT EXECUTE FUNCTION public.stored_events_lock();
CREATE TRIGGER b_chain BEFORE INSERT ON public.stored_events
    FOR EACH ROW EXECUTE FUNCTION public.stored_events_chain();
CREATE TRIGGER z_no_change BEFORE UPDATE OR DELETE ON public.stored_events
    FOR EACH ROW EXECUTE FUNCTION public.stored_events_immutable();
CREATE TRIGGER z_no_truncate BEFORE TRUNCATE ON public.stored_events
    FOR EACH STATEMENT EXECUTE FUNCTION public.stored_events_immutable();

-- Also under session_replication_role = replica.
ALTER TABLE public.stored_events ENABLE ALWAYS TRIGGER a_lock;
ALTER TABLE public.stored_events ENABLE ALWAYS TRIGGER b_chain;
ALTER TABLE public.stored_events ENABLE ALWAYS TRIGGER z_no_change;
ALTER TABLE public.stored_events ENABLE ALWAYS TRIGGER z_no_truncate;

GRANT USAGE ON SCHEMA public TO contree_app;
GRANT SELECT ON public.stored_events TO contree_app;
GRANT INSERT (originator_id, originator_version, topic, state)
    ON public.stored_events TO contree_app;

-- What live operations need beside the log. Not history: nothing here outlives its operation.

-- Secrets of a pending or running operation, sealed under the deployment's key.
CREATE TABLE public.sealed_secrets (
    operation_id uuid  PRIMARY KEY,
    sealed       bytea NOT NULL
);

GRANT SELECT, INSERT, UPDATE, DELETE ON public.sealed_secrets TO contree_app;

-- Every operation that has not ended, in the order in which workers take it. It changes in the
-- statement that appends the event, so it always agrees with the log; `contreed projections
-- rebuild` compares it, or sets it right.
--
--     worker IS NULL                          waits
--     worker IS NULL, taken_until is to come  a claim is about to be recorded; free again after it
--     worker                                  runs there, and is believed to until `until`
CREATE TABLE public.queue (
    operation_id uuid        PRIMARY KEY,
    project_id   uuid        NOT NULL,
    kind         text        NOT NULL,
    created_at   timestamptz NOT NULL,
    worker       text,
    until        timestamptz,
    unwanted     boolean     NOT NULL DEFAULT false,
    taken_by     text,
    taken_until  timestamptz,
    CHECK ((worker IS NULL) = (until IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500);
CREATE INDEX queue_waiting_idx ON public.queue (kind, project_id, created_at, operation_id)
    WHERE worker IS NULL;
-- Few at any moment, however many wait.
CREATE INDEX queue_held_idx ON public.queue (worker)
    WHERE worker IS NOT NULL OR taken_until IS NOT NULL;

-- When each project was served last. Only claims write it, one of a kind at a time.
CREATE TABLE public.queue_turns (
    project_id uuid        NOT NULL,
    kind       text        NOT NULL,
    served_at  timestamptz NOT NULL,
    PRIMARY KEY (project_id, kind)
);

-- Workers listen: who has room looks when something waits, and who is named when something that it
-- runs is unwanted. Nothing else that is appended wakes them.
CREATE FUNCTION public.queue_notify() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
BEGIN
    done := pg_notify('work', CASE WHEN NEW.worker IS NULL THEN 'waiting ' || NEW.kind
                                   ELSE 'unwanted ' || NEW.worker END) IS NOT NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER a_notify_waiting AFTER INSERT ON public.queue
    FOR EACH ROW WHEN (NEW.worker IS NULL) EXECUTE FUNCTION public.queue_notify();
CREATE TRIGGER b_notify_changed AFTER UPDATE ON public.queue
    FOR EACH ROW WHEN (
        (NEW.worker IS NULL AND OLD.worker IS NOT NULL) OR (NEW.unwanted AND NOT OLD.unwanted)
    ) EXECUTE FUNCTION public.queue_notify();

-- Takes up to `at_most` waiting operations for a worker, which has `for_s` seconds to record that
-- they are its own. Never waits for an append. Claims of one kind wait for one another, for as long
-- as this call takes on the server: each query of a function sees what was committed before it, so
-- a project's bound holds, and nothing is locked any more when the worker gets the answer.
--
-- It steps from project to project along the index, so the cost follows the number of projects that
-- wait and not the length of the queue; the planner must not think otherwise when the table has
-- grown. Each project's operations are numbered after what it has running: so turns go round.
CREATE FUNCTION public.queue_take(
    of_kind text, by_worker text, at_most bigint, per_project bigint, for_s double precision
) RETURNS SETOF uuid LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    at timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock('public.queue'::regclass::oid::integer, hashtext(of_kind));
    at := clock_timestamp();
    RETURN QUERY
    WITH RECURSIVE waiting AS (
        (SELECT q.project_id, q.created_at, q.operation_id FROM public.queue q
         WHERE q.worker IS NULL AND q.kind = of_kind
           AND (q.taken_until IS NULL OR q.taken_until < at)
         ORDER BY q.project_id, q.created_at, q.operation_id LIMIT 1)
        UNION ALL
        SELECT o.project_id, o.created_at, o.operation_id
        FROM waiting w CROSS JOIN LATERAL (
            SELECT q.project_id, q.created_at, q.operation_id FROM public.queue q
            WHERE q.worker IS NULL AND q.kind = of_kind AND q.project_id > w.project_id
              AND (q.taken_until IS NULL OR q.taken_until < at)
            ORDER BY q.project_id, q.created_at, q.operation_id LIMIT 1
        ) o
    ), held AS (
        SELECT q.project_id, count(*) AS operations FROM public.queue q
        WHERE (q.worker IS NOT NULL OR q.taken_until IS NOT NULL) AND q.kind = of_kind
          AND (q.worker IS NOT NULL OR q.taken_until >= at)
        GROUP BY q.project_id
    ), next_projects AS (
        SELECT w.project_id, coalesce(h.operations, 0) AS operations, t.served_at
        FROM waiting w
        LEFT JOIN held h ON h.project_id = w.project_id
        LEFT JOIN public.queue_turns t ON t.project_id = w.project_id AND t.kind = of_kind
        WHERE coalesce(h.operations, 0) < per_project
        ORDER BY coalesce(h.operations, 0), t.served_at NULLS FIRST, w.created_at, w.operation_id
        LIMIT at_most
    ), chosen AS (
        SELECT o.operation_id
        FROM next_projects p CROSS JOIN LATERAL (
            SELECT q.operation_id, q.created_at, p.operations
                   + row_number() OVER (ORDER BY q.created_at, q.operation_id) AS turn
            FROM public.queue q
            WHERE q.worker IS NULL AND q.kind = of_kind AND q.project_id = p.project_id
              AND (q.taken_until IS NULL OR q.taken_until < at)
            ORDER BY q.created_at, q.operation_id
            LIMIT least(at_most, per_project - p.operations)
        ) o
        ORDER BY o.turn, p.served_at NULLS FIRST, o.created_at, o.operation_id
        LIMIT at_most
    ), free AS (
        -- One that is locked is being cancelled just now.
        SELECT l.operation_id FROM chosen c CROSS JOIN LATERAL (
            SELECT q.operation_id FROM public.queue q
            WHERE q.operation_id = c.operation_id AND q.worker IS NULL
            FOR UPDATE SKIP LOCKED
        ) l
    ), taken AS (
        UPDATE public.queue q
        SET taken_by = by_worker, taken_until = at + make_interval(secs => for_s)
        FROM free WHERE q.operation_id = free.operation_id
        RETURNING q.operation_id, q.project_id, q.created_at
    ), served AS (
        INSERT INTO public.queue_turns (project_id, kind, served_at)
        SELECT DISTINCT t.project_id, of_kind, at FROM taken t
        ON CONFLICT (project_id, kind) DO UPDATE SET served_at = EXCLUDED.served_at
    )
    SELECT t.operation_id FROM taken t ORDER BY t.created_at, t.operation_id;
END $$;

GRANT SELECT, INSERT, UPDATE, DELETE ON public.queue, public.queue_turns TO contree_app;

-- What the processes of an operation did, as clients follow it. The log holds its digest.

-- `next_number` outlives the entries of a lost attempt, so that numbers are never used twice.
--
-- Once their operation has ended journals are packed into one content of the project, and their rows
-- go (ADR 21). `sha256`, `size_bytes`: of the packed journal, no bytes for one without entries. When
-- it was forgotten there is no size; the digest stays, to be found by whoever removes the content,
-- and is empty if there never was a pack.
CREATE TABLE public.operation_journals (
    operation_id uuid   PRIMARY KEY,
    next_number  bigint NOT NULL,
    sha256       bytea,
    size_bytes   bigint
);
CREATE INDEX operation_journals_unpacked_idx ON public.operation_journals (operation_id)
    WHERE sha256 IS NULL;

-- `data` is json, not jsonb: it is handed out as it came, and may hold \u0000.
CREATE TABLE public.operation_journal (
    operation_id uuid        NOT NULL,
    number       bigint      NOT NULL,
    at           timestamptz NOT NULL,
    type         text        NOT NULL,
    spid         integer     NOT NULL,
    data         json        NOT NULL,
    PRIMARY KEY (operation_id, number)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
-- Rows live for seconds: what they leave is vacuumed by count, not by share of the table.

GRANT SELECT, INSERT, UPDATE, DELETE
    ON public.operation_journals, public.operation_journal TO contree_app;

-- How the API reaches a running guest: commands for the worker that holds the operation. Not
-- history: what was done is in the log; nothing here outlives its operation.

-- Open while the worker takes commands; closed from the end of the main command on. Unlogged: a
-- worker opens its inboxes again when a crash of the database has emptied the table.
CREATE UNLOGGED TABLE public.guest_inboxes (
    operation_id uuid    PRIMARY KEY,
    is_open      boolean NOT NULL
);

-- A row is deleted when it is answered; the answer itself travels by NOTIFY. Unlogged: after a
-- crash of the database nobody knows what became of a command, and its sender is told so.
CREATE UNLOGGED TABLE public.guest_commands (
    number       bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operation_id uuid    NOT NULL,
    action       text    NOT NULL,
    spid         integer NOT NULL,
    facts        json    NOT NULL,
    actor        text    NOT NULL,
    request_id   text    NOT NULL,
    payload      bytea   NOT NULL,
    started      boolean NOT NULL DEFAULT false
);
-- Standard input passes through once: no time is spent on compressing it.
ALTER TABLE public.guest_commands ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX guest_commands_operation_idx ON public.guest_commands (operation_id, number);

GRANT SELECT, INSERT, UPDATE, DELETE
    ON public.guest_inboxes, public.guest_commands TO contree_app;

-- The Merkle tree over the log, and what was signed of it. Derived: `contreed audit rebuild` makes
-- tiles and state again from the log. Nothing here is trusted by a verification.

-- How far the tree is: so many leaves, up to the event at `position`, whose chain hash is `hash`.
-- Tiles are written only together with this row, and only by whoever knows what it was.
CREATE TABLE public.log_tree (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    size     bigint  NOT NULL,
    position bigint  NOT NULL,
    hash     bytea   NOT NULL
);
INSERT INTO public.log_tree (size, position, hash) VALUES (0, 0, '');

-- 1 to 256 hashes of 32 bytes. `first_position`: of the first event of a tile of level 0.
CREATE TABLE public.log_tiles (
    level          smallint NOT NULL,
    index          bigint   NOT NULL,
    first_position bigint,
    hashes         bytea    NOT NULL,
    PRIMARY KEY (level, index)
);
-- Hashes do not compress.
ALTER TABLE public.log_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;
-- From a position to the number of its leaf.
CREATE INDEX log_tiles_first_position_idx ON public.log_tiles (first_position) WHERE level = 0;

-- Copies of the checkpoints that were signed; those outside the database are the ones that count.
CREATE TABLE public.log_checkpoints (
    size bigint PRIMARY KEY,
    note text   NOT NULL
);

GRANT SELECT, UPDATE ON public.log_tree TO contree_app;
GRANT SELECT, INSERT, UPDATE ON public.log_tiles TO contree_app;
GRANT SELECT, INSERT ON public.log_checkpoints TO contree_app;

-- The data key of each project, wrapped under the deployment's key. Not history: the key is
-- destroyed in the transaction that records the project's erasure, and the row that remains keeps
-- another from being made.

CREATE TABLE public.project_keys (
    project_id uuid        PRIMARY KEY,
    wrapped    bytea,
    erased_at  timestamptz,
    CHECK ((wrapped IS NULL) = (erased_at IS NOT NULL))
);

-- Who holds a key in memory lets go of it.
CREATE FUNCTION public.project_keys_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('project_erased', NEW.project_id::text);
    RETURN NULL;
END $$;
CREATE TRIGGER a_notify_erased AFTER INSERT OR UPDATE ON public.project_keys
    FOR EACH ROW WHEN (NEW.wrapped IS NULL) EXECUTE FUNCTION public.project_keys_notify();

GRANT SELECT, INSERT, UPDATE ON public.project_keys TO contree_app;
