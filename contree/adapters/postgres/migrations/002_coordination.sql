-- What live operations need beside the log. Not history: nothing here outlives its operation.

-- Secrets of a pending or running operation, sealed under the deployment's key.
CREATE TABLE public.sealed_secrets (
    operation_id uuid  PRIMARY KEY,
    sealed       bytea NOT NULL
);

-- Who works on a running operation, and until when that is believed without a sign of life.
CREATE TABLE public.leases (
    operation_id uuid        PRIMARY KEY,
    worker       text        NOT NULL,
    until        timestamptz NOT NULL
);
CREATE INDEX leases_worker_idx ON public.leases (worker);

GRANT SELECT, INSERT, UPDATE, DELETE ON public.sealed_secrets, public.leases TO contree_app;
