-- What the processes of an operation did, as clients follow it. The log holds its digest.

-- `next_number` outlives the entries of a lost attempt, so that numbers are never used twice.
CREATE TABLE public.operation_journals (
    operation_id uuid   PRIMARY KEY,
    next_number  bigint NOT NULL
);

-- `data` is json, not jsonb: it is handed out as it came, and may hold \u0000.
CREATE TABLE public.operation_journal (
    operation_id uuid        NOT NULL,
    number       bigint      NOT NULL,
    at           timestamptz NOT NULL,
    type         text        NOT NULL,
    spid         integer     NOT NULL,
    data         json        NOT NULL,
    PRIMARY KEY (operation_id, number)
);

GRANT SELECT, INSERT, UPDATE, DELETE
    ON public.operation_journals, public.operation_journal TO contree_app;
