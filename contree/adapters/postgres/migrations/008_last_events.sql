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
