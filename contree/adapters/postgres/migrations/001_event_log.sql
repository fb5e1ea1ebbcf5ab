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

-- Every writer takes this lock before its first id is drawn (a statement trigger fires before any
-- row and its defaults), and keeps it to the end of its commit: ids are in commit order, so a
-- reader that remembers the last id it saw misses nothing. A snapshot older than the lock would
-- read a stale end of the chain, hence READ COMMITTED only.
CREATE FUNCTION public.stored_events_lock() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'appending to the event log needs READ COMMITTED, this transaction is %',
            upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM pg_advisory_xact_lock(TG_RELID::bigint);
    RETURN NULL;
END $$;

-- hash = sha256(previous hash || id || originator || version || time || topic || state): lengths
-- before what varies, integers big-endian, time as microseconds since 2000-01-01 UTC.
CREATE FUNCTION public.stored_events_chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    previous record;
    topic_bytes bytea := convert_to(NEW.topic, 'UTF8');
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
    RETURN NEW;
END $$;

CREATE FUNCTION public.stored_events_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('stored_events', '');
    RETURN NULL;
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
CREATE TRIGGER c_notify AFTER INSERT ON public.stored_events
    FOR EACH STATEMENT EXECUTE FUNCTION public.stored_events_notify();
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
