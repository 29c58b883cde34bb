-- A generation of partitions: those from first on, as many as ident_cluster says. A repartition
-- begins a generation behind all earlier numbers, so no number is ever used again.
ALTER TABLE ident_cluster ADD COLUMN first int NOT NULL DEFAULT 0;

-- The first partition of this one's generation.
ALTER TABLE ident_partitions ADD COLUMN first int NOT NULL DEFAULT 0;

-- When the generation ended; NULL: it has not. After that, no lease of the partition is valid and
-- its log does not grow.
ALTER TABLE ident_partitions ADD COLUMN ended_at timestamptz;

-- Each repartition, in the order of the numbers. The latest one may be under way.
CREATE TABLE ident_repartition (
    number          int    PRIMARY KEY,
    phase           text   NOT NULL CHECK (phase IN ('stopping', 'moving', 'clearing', 'done', 'given up')),
    from_first      int    NOT NULL,
    from_partitions int    NOT NULL,
    from_queue_type text   NOT NULL,
    to_first        int    NOT NULL,
    to_partitions   int    NOT NULL,
    to_queue_type   text   NOT NULL,
    attempt         bigint NOT NULL DEFAULT 0,     -- rises with each instance that carries it on
    mover           text   NOT NULL DEFAULT '',    -- the instance that carries it on
    mover_until     timestamptz NOT NULL DEFAULT '-infinity', -- from then on another one may
    moved           bigint NOT NULL DEFAULT 0,     -- requests that went from the old queues to the new ones
    cleared         int    NOT NULL DEFAULT 0,     -- old queues that were deleted
    note            text   NOT NULL DEFAULT '',    -- what is in the way, or why it was given up
    begun_at        timestamptz NOT NULL DEFAULT now(),
    clear_at        timestamptz,                   -- old queues are not deleted before
    ended_at        timestamptz
);
CREATE UNIQUE INDEX ON ident_repartition ((true)) WHERE phase IN ('stopping', 'moving', 'clearing');
