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
