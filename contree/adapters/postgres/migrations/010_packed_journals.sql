-- Journals end: once their operation has, they are packed into one content of the project, and their
-- rows go (ADR 21). Rows live for seconds, so what they leave is vacuumed by count, not by share.

-- `sha256`, `size_bytes`: of the packed journal, no bytes for one without entries. When it was
-- forgotten there is no size; the digest stays, to be found by whoever removes the content, and is
-- empty if there never was a pack.
ALTER TABLE public.operation_journals
    ADD COLUMN sha256 bytea,
    ADD COLUMN size_bytes bigint;
CREATE INDEX operation_journals_unpacked_idx ON public.operation_journals (operation_id)
    WHERE sha256 IS NULL;
ALTER TABLE public.operation_journal
    SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
