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
