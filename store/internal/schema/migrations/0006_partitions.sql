-- What all instances have to agree on: one row, once they have.
CREATE TABLE ident_cluster (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    partitions    int  NOT NULL,
    queue_type    text NOT NULL,
    table_version int  NOT NULL,
    rebound_at    timestamptz -- when the partitions' queues were last bound anew
);

-- The epoch table: who may write to the users of a partition. A claim raises
-- the epoch, which never goes down.
CREATE TABLE ident_partitions (
    partition      int PRIMARY KEY,
    epoch          bigint  NOT NULL,
    holder         text,              -- NULL: nobody has held it yet
    holder_start   bigint,
    holder_session bigint,
    released       boolean NOT NULL,  -- the holder has given it back
    claimed_at     timestamptz
) WITH (fillfactor = 30);

-- Tells the runs of an instance apart.
CREATE SEQUENCE ident_starts;

-- Whose lease a notification was committed under. NULL: from before there were
-- any.
ALTER TABLE ident_outbox ADD COLUMN partition int;

-- Says when another program than ours writes to the users. Only a session of
-- ours has an application name like this.
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
