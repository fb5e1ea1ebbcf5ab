-- The work queue is a table of its own, claimed outside the log's lock. It holds the leases too.

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

-- A database that was in use has read models by now. A running operation without a lease is
-- nobody's: it is put back when the first worker has been there for as long as a lease lasts.
DO $$
BEGIN
    IF to_regclass('read.operations') IS NOT NULL THEN
        INSERT INTO public.queue
            (operation_id, project_id, kind, created_at, worker, until, unwanted)
        SELECT o.operation_id, o.project_id, o.kind, o.created_at, o.worker,
               CASE WHEN o.worker IS NOT NULL THEN coalesce(l.until, now()) END,
               o.cancellation_requested
        FROM read.operations o LEFT JOIN public.leases l USING (operation_id)
        WHERE o.status IN ('PENDING', 'ASSIGNED', 'EXECUTING');
    END IF;
END $$;
DROP TABLE public.leases;
