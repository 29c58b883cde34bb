-- One log takes the place of the requests, the audit and the outbox. All instances must be
-- stopped. The audit is copied: some seconds for a million entries.
SET LOCAL enable_seqscan = on;
SET LOCAL enable_hashjoin = on;
SET LOCAL enable_mergejoin = on;
LOCK TABLE users, services, ident_requests, ident_outbox, ident_audit, ident_partitions;

-- The number of changes that requests have made to the user since this column exists.
ALTER TABLE users ADD COLUMN sequence bigint NOT NULL DEFAULT 0;

-- Up to this position, the changes of the partition's users were notified, except those in
-- ident_held_back. No later one is in the log of a day before notified_on.
ALTER TABLE ident_partitions ADD COLUMN notified bigint NOT NULL DEFAULT 0;
ALTER TABLE ident_partitions ADD COLUMN notified_on date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date - 1;

-- Up to this position, changes may have been dropped from the log.
ALTER TABLE ident_partitions ADD COLUMN pruned bigint NOT NULL DEFAULT 0;

-- The users whose changes from a position on were not notified, although the partition's
-- notified is further: a subscriber's queue refuses them. None is in the log of a day
-- before since.
CREATE TABLE ident_held_back (
    partition int    NOT NULL,
    user_id   bigint NOT NULL,
    position  bigint NOT NULL,
    since     date   NOT NULL,
    PRIMARY KEY (partition, user_id)
);

-- The requests that were decided, in the transactions that carried them out. Each day in UTC
-- has a table of its own, ident_log_YYYYMMDD, which instances name in their statements. A
-- write of another program adds no row.
--
-- The positions of a partition ascend in the order of the commits. They begin at
-- epoch * 2^40 with each epoch.
CREATE TABLE ident_log (
    at          timestamptz NOT NULL DEFAULT now(),
    request     uuid   NOT NULL, -- the request id, as ident_request computes it; a random one if the request had none
    digest      bigint NOT NULL, -- of operation and arguments
    user_id     bigint NOT NULL, -- 0: the request was about no user
    sequence    bigint,          -- the number of the change among those of the user; NULL: the request was refused
    position    bigint,          -- of the change in the partition; NULL: there is none
    partition   int,             -- of the lease under which the change was made
    operation   text   NOT NULL, -- create, patch or delete
    code        text,            -- of the refusal; NULL: the request was carried out
    message     text,            -- of the refusal
    change      json,            -- the new user; or a JSON Patch from the earlier to the later state of the user; without access tokens
    traceparent text             -- of the request or, if the service traces, of its span "process"
) PARTITION BY RANGE (at);

-- The notifications with access tokens of changes that are in the log, until they are sent.
CREATE TABLE ident_sealed (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition int    NOT NULL,
    position  bigint NOT NULL,
    user_id   bigint NOT NULL,
    body      bytea  NOT NULL, -- a Fernet token
    UNIQUE (partition, position)
);

-- Creates the table of a day, unless it exists. Transactions that use the tables of other
-- days do not wait.
CREATE FUNCTION ident_log_day(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := 'ident_log_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF to_regclass(name) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(x'6964656e746c6f67'::bigint); -- "identlog" in ASCII
    IF to_regclass(name) IS NOT NULL THEN
        RETURN;
    END IF;
    -- Next to nothing is updated or deleted there.
    EXECUTE format('CREATE TABLE %I (LIKE ident_log INCLUDING DEFAULTS) WITH (autovacuum_vacuum_insert_threshold = -1)', name);
    EXECUTE format('CREATE UNIQUE INDEX %I ON %I (request)', name || '_request', name);
    EXECUTE format('CREATE UNIQUE INDEX %I ON %I (partition, position) WHERE position IS NOT NULL', name || '_position', name);
    EXECUTE format('CREATE INDEX %I ON %I (user_id, position)', name || '_user', name);
    EXECUTE format('ALTER TABLE ident_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name,
        day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
END
$$;

SELECT ident_log_day(d::date)
FROM generate_series(
    least((now() AT TIME ZONE 'UTC')::date - 2,
        (SELECT min(committed_at AT TIME ZONE 'UTC')::date FROM ident_audit),
        (SELECT min(at AT TIME ZONE 'UTC')::date FROM ident_requests)),
    (now() AT TIME ZONE 'UTC')::date + 7, interval '1 day') AS d;

-- The entries of the audit, with the records of their requests. These changes were notified, so
-- they have no position.
INSERT INTO ident_log (at, request, digest, user_id, operation, change, traceparent)
SELECT a.committed_at, CASE WHEN a.n = 1 AND a.request IS NOT NULL THEN a.request ELSE gen_random_uuid() END,
    coalesce(r.digest, 0), a.user_id, a.operation,
    CASE a.operation WHEN 'create' THEN a.changes -> 0 -> 'value' WHEN 'patch' THEN a.changes END, a.traceparent
FROM (SELECT *, row_number() OVER (PARTITION BY request ORDER BY committed_at DESC) AS n FROM ident_audit) AS a
LEFT JOIN (SELECT DISTINCT ON (identity) identity, digest FROM ident_requests WHERE code IS NULL ORDER BY identity, at DESC) AS r
    ON r.identity = a.request AND a.n = 1;

-- The records of other requests: those that were refused, or that changed nothing.
INSERT INTO ident_log (at, request, digest, user_id, operation, code, message)
SELECT DISTINCT ON (identity) at, identity, digest, user_id, 'unknown', code, message
FROM ident_requests AS r WHERE NOT EXISTS (SELECT FROM ident_audit AS a WHERE a.request = r.identity)
ORDER BY identity, at DESC;

-- What is still to be notified gets positions of the last epoch, and so is found by the next
-- owner of the partition. An outbox that was never assigned to partitions is older than all
-- releases.
WITH pending AS (
    SELECT o.*, (p.epoch << 40) + row_number() OVER (PARTITION BY o.partition ORDER BY o.id) AS position,
        u.sequence + row_number() OVER (PARTITION BY o.user_id ORDER BY o.id) AS sequence, split_part(o.routing_key, '.', 3) AS operation
    FROM ident_outbox AS o JOIN ident_partitions AS p USING (partition)
    LEFT JOIN users AS u ON u.id = o.user_id
), sealed AS (
    INSERT INTO ident_sealed (partition, position, user_id, body) SELECT partition, position, user_id, body FROM pending WHERE sealed
), counted AS (
    UPDATE users AS u SET sequence = c.sequence
    FROM (SELECT user_id, max(sequence) AS sequence FROM pending GROUP BY user_id) AS c WHERE u.id = c.user_id
)
INSERT INTO ident_log (request, digest, user_id, sequence, position, partition, operation, change, traceparent)
SELECT gen_random_uuid(), 0, user_id, coalesce(sequence, 1), position, partition, operation,
    CASE WHEN sealed THEN NULL WHEN operation = 'create' THEN convert_from(body, 'UTF8')::json
        WHEN operation = 'patch' THEN convert_from(body, 'UTF8')::json -> 'ops' END, traceparent
FROM pending;

UPDATE ident_partitions SET notified = epoch << 40, notified_on = (now() AT TIME ZONE 'UTC')::date - 1;

DROP TABLE ident_requests, ident_outbox, ident_audit;
DROP FUNCTION ident_slot(timestamptz);
DROP FUNCTION ident_audit_day(date);
