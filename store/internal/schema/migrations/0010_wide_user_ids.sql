-- User ids need more than 32 bits. This rewrites the tables, except where a column has the
-- type already. Sessions that use them wait meanwhile.
SET LOCAL enable_seqscan = on;
SET LOCAL enable_hashjoin = on;
SET LOCAL enable_mergejoin = on;

-- All tables are locked before the first one is changed, users first. Otherwise a transaction
-- that has read users would wait for services, while this one waits for users: a deadlock.
LOCK TABLE users, services, ident_requests, ident_outbox, ident_audit;

-- Look-ups of accounts must not depend on what the planner knows about the table. So for the
-- conditions that they use there is only one index each: by user the primary key, by account
-- the unique constraint. The primary key of the Python service had the columns the other way
-- round. A look-up by user could read all of it.
--
-- The last index is the order in which access tokens are encrypted again. The expression
-- keeps all other statements from using it.
DROP INDEX services_user_id;
DO $$
DECLARE
    name text := (SELECT conname FROM pg_constraint WHERE conrelid = 'services'::regclass AND contype = 'p');
BEGIN
    EXECUTE format('ALTER TABLE services DROP CONSTRAINT %I, ALTER COLUMN user_id TYPE bigint,
        ADD CONSTRAINT %I PRIMARY KEY (user_id, sv_name)', name, name);
END
$$;
CREATE INDEX services_by_service ON services (sv_name, (user_id + 0));

ALTER TABLE users ALTER COLUMN id TYPE bigint;
ALTER TABLE ident_requests ALTER COLUMN user_id TYPE bigint;
ALTER TABLE ident_outbox ALTER COLUMN user_id TYPE bigint;
ALTER TABLE ident_audit ALTER COLUMN user_id TYPE bigint;

-- The sequence gets the range of bigint, unless another limit was set.
DO $$
DECLARE
    sequence text := pg_get_serial_sequence('users', 'id');
BEGIN
    IF sequence IS NOT NULL THEN
        EXECUTE 'ALTER SEQUENCE ' || sequence || ' AS bigint';
    END IF;
END
$$;

-- The statistics of columns and indexes that were built anew are lost. Without those of the
-- words of names, the planner would not use their index.
ANALYZE users, services;
