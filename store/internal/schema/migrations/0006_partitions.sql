-- The parameters that all instances must agree on. The first instance adds the
-- one row.
CREATE TABLE ident_cluster (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    partitions    int  NOT NULL,
    queue_type    text NOT NULL,
    table_version int  NOT NULL,
    rebound_at    timestamptz -- when the queues of the partitions were last bound again
);

-- The epoch table: which member may write to the users of a partition. A claim
-- increments the epoch, which never decreases.
CREATE TABLE ident_partitions (
    partition      int PRIMARY KEY,
    epoch          bigint  NOT NULL,
    holder         text,              -- NULL: no member has held it yet
    holder_start   bigint,
    holder_session bigint,
    released       boolean NOT NULL,  -- the holder has released its lease
    claimed_at     timestamptz
) WITH (fillfactor = 30);

-- Numbers the starts of instances, which tells the runs of an instance apart.
CREATE SEQUENCE ident_starts;

-- The partition of the lease under which a notification was committed. NULL: the
-- notification is older than this column.
ALTER TABLE ident_outbox ADD COLUMN partition int;

-- Notifies the instances when another program writes to users or services. Only
-- the sessions of instances have an application name that begins with
-- glotpod.ident/.
CREATE FUNCTION ident_foreign() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('ident_foreign', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER ident_foreign AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON users
    FOR EACH STATEMENT WHEN (current_setting('application_name') NOT LIKE 'glotpod.ident/%')
    EXECUTE FUNCTION ident_foreign();

CREATE TRIGGER ident_foreign AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON services
    FOR EACH STATEMENT WHEN (current_setting('application_name') NOT LIKE 'glotpod.ident/%')
    EXECUTE FUNCTION ident_foreign();
