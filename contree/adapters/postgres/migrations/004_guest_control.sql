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

-- Followers of an operation look again when its journal has grown (the journal's writer says so)
-- and when it has ended (this trigger). Both go by one channel, with the operation's id.
CREATE FUNCTION public.stored_events_notify_ends() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('operation_news', originator_id::text) FROM appended
        WHERE topic IN ('contree.operation.succeeded', 'contree.operation.failed',
                        'contree.operation.cancelled');
    RETURN NULL;
END $$;
CREATE TRIGGER d_notify_ends AFTER INSERT ON public.stored_events
    REFERENCING NEW TABLE AS appended
    FOR EACH STATEMENT EXECUTE FUNCTION public.stored_events_notify_ends();
