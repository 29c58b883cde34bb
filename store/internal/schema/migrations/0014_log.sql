-- One log takes the place of the requests, the audit and the outbox. All instances must be
-- stopped. The audit is copied: a quarter of a minute for a million entries.
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
    sequence    bigint,          -- the number of the change among those of the user; NULL: the request was refused, or is older than this table
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
CREATE INDEX ident_sealed_user ON ident_sealed USING hash (user_id); -- statements on positions cannot take it

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
    -- The session may remember that to_regclass has found nothing. A query sees what was
    -- committed while it waited for the lock.
    IF EXISTS (SELECT FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'ident_log'::regclass AND c.relname = name) THEN
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

-- A clock that has gone back may have left times after now.
UPDATE ident_requests SET at = now() WHERE at > now();
UPDATE ident_outbox SET committed_at = now() WHERE committed_at > now();
UPDATE ident_audit SET committed_at = now() WHERE committed_at > now();

SELECT ident_log_day(day) FROM (
    SELECT (now() AT TIME ZONE 'UTC')::date + n AS day FROM generate_series(-2, 7) AS n
    UNION SELECT (at AT TIME ZONE 'UTC')::date FROM ident_requests
    UNION SELECT (committed_at AT TIME ZONE 'UTC')::date FROM ident_outbox
    UNION SELECT (committed_at AT TIME ZONE 'UTC')::date FROM ident_audit) AS days;

DO $$
DECLARE
    unassigned bigint := (SELECT count(*) FROM ident_outbox LEFT JOIN ident_partitions AS p USING (partition) WHERE p.partition IS NULL);
BEGIN
    IF unassigned > 0 THEN
        RAISE '% notifications of a very old version have no partition', unassigned
            USING HINT = 'Start an instance of the version that you update from: it gives them one. Then stop it.';
    END IF;
END
$$;

-- An entry of the audit and a pending notification are the same change if they are of one
-- transaction, user and trace, and say the same; the audit also says which access tokens were
-- replaced. What an encrypted notification says is known if these are of one change, and if it
-- is so short that it can only be that of a patch that changes nothing: 40 bytes at most.
ALTER TABLE ident_outbox ADD COLUMN operation text, ADD COLUMN change json, ADD COLUMN request uuid;
UPDATE ident_outbox SET operation = split_part(routing_key, '.', 3), change = CASE
    WHEN sealed THEN CASE WHEN routing_key = 'notifications.user.patch' AND octet_length(body) <= 140 THEN '[]'::json END
    WHEN routing_key = 'notifications.user.create' THEN convert_from(body, 'UTF8')::json
    WHEN routing_key = 'notifications.user.patch' THEN convert_from(body, 'UTF8')::json -> 'ops' END;
WITH pending AS (
    SELECT *, row_number() OVER (PARTITION BY user_id, committed_at, operation, trace, ops ORDER BY id) AS number,
        count(*) OVER (PARTITION BY user_id, committed_at, operation, trace) AS count
    FROM (SELECT *, coalesce(traceparent, '') AS trace, CASE operation WHEN 'patch' THEN change::jsonb END AS ops FROM ident_outbox WHERE NOT sealed OR change IS NULL) AS o
), audit AS (
    SELECT *, row_number() OVER (PARTITION BY user_id, committed_at, operation, trace, ops ORDER BY ctid) AS number,
        count(*) OVER (PARTITION BY user_id, committed_at, operation, trace) AS count
    FROM (
        SELECT a.tableoid, a.ctid, a.*, coalesce(traceparent, '') AS trace, CASE a.operation WHEN 'patch' THEN (
            SELECT coalesce(jsonb_agg(op ORDER BY n), '[]') FROM jsonb_array_elements(a.changes::jsonb) WITH ORDINALITY AS ops (op, n)
            WHERE op ? 'value' OR op ->> 'path' NOT LIKE '%/access_token') END AS ops
        FROM ident_audit AS a WHERE (user_id, committed_at) IN (SELECT user_id, committed_at FROM ident_outbox)) AS a
), same AS (
    SELECT o.id, a.tableoid, a.ctid, a.request, CASE a.operation WHEN 'create' THEN a.changes -> 0 -> 'value' WHEN 'patch' THEN a.changes END AS change
    FROM pending AS o JOIN audit AS a USING (user_id, committed_at, operation, trace, number)
    WHERE CASE WHEN o.sealed THEN o.count = 1 AND a.count = 1 ELSE o.ops IS NOT DISTINCT FROM a.ops END
), removed AS (
    DELETE FROM ident_audit AS a USING same WHERE a.tableoid = same.tableoid AND a.ctid = same.ctid
)
UPDATE ident_outbox AS o SET request = same.request, change = same.change FROM same WHERE o.id = same.id;

-- A change that was not audited has the record of its request if there is one of each.
UPDATE ident_outbox AS o SET request = r.identity FROM (
    SELECT user_id, at, min(identity::text)::uuid AS identity FROM ident_requests AS r
    WHERE code IS NULL AND (user_id, at) IN (SELECT user_id, committed_at FROM ident_outbox GROUP BY user_id, committed_at HAVING count(*) FILTER (WHERE request IS NULL) = 1)
        AND NOT EXISTS (SELECT FROM ident_audit AS a WHERE a.request = r.identity)
        AND NOT EXISTS (SELECT FROM ident_outbox AS p WHERE p.request = r.identity)
    GROUP BY user_id, at HAVING count(DISTINCT identity) = 1) AS r
WHERE o.request IS NULL AND o.user_id = r.user_id AND o.committed_at = r.at;

-- What is pending gets positions of the last epoch, and so is found by the next owner of the
-- partition. Up to a change that is not known, a subscriber does not learn changes from the log.
ALTER TABLE ident_outbox ADD COLUMN position bigint, ADD COLUMN sequence bigint;
UPDATE ident_outbox AS o SET position = n.position, sequence = n.sequence FROM (
    SELECT id, (p.epoch << 40) + row_number() OVER (PARTITION BY partition ORDER BY id) AS position,
        row_number() OVER (PARTITION BY user_id ORDER BY id) AS sequence
    FROM ident_outbox JOIN ident_partitions AS p USING (partition)) AS n
WHERE o.id = n.id;
UPDATE users AS u SET sequence = last.sequence
FROM (SELECT user_id, max(sequence) AS sequence FROM ident_outbox GROUP BY user_id) AS last WHERE u.id = last.user_id;
UPDATE ident_partitions AS p SET notified = p.epoch << 40,
    notified_on = least((now() AT TIME ZONE 'UTC')::date - 1, (SELECT min(o.committed_at AT TIME ZONE 'UTC')::date FROM ident_outbox AS o WHERE o.partition = p.partition)),
    pruned = coalesce((SELECT max(o.position) FROM ident_outbox AS o WHERE o.partition = p.partition AND o.change IS NULL AND o.operation <> 'delete'), 0);
INSERT INTO ident_sealed (partition, position, user_id, body) SELECT partition, position, user_id, body FROM ident_outbox WHERE sealed ORDER BY id;

-- Each change with the record of its request, if that is kept. A request id that was used again
-- is that of the last request. The changes of the audit were notified, so they have no
-- position.
WITH records AS (
    SELECT DISTINCT ON (identity) identity, at, digest FROM ident_requests ORDER BY identity, at DESC
), changes AS (
    SELECT *, row_number() OVER (PARTITION BY request ORDER BY at DESC) = 1 AND request IS NOT NULL AS is_last FROM (
        SELECT committed_at AS at, request, user_id, NULL::bigint AS sequence, NULL::bigint AS position, NULL::int AS partition, operation,
            CASE operation WHEN 'create' THEN changes -> 0 -> 'value' WHEN 'patch' THEN changes END AS change, traceparent
        FROM ident_audit
        UNION ALL
        SELECT committed_at, request, user_id, sequence, position, partition, operation,
            CASE operation WHEN 'create' THEN coalesce(change, json_build_object('id', user_id)) WHEN 'patch' THEN coalesce(change, '[]') END, traceparent
        FROM ident_outbox) AS c
)
INSERT INTO ident_log (at, request, digest, user_id, sequence, position, partition, operation, change, traceparent)
SELECT c.at, CASE WHEN c.is_last AND coalesce(r.at = c.at, true) THEN c.request ELSE gen_random_uuid() END,
    CASE WHEN r.at = c.at THEN r.digest ELSE 0 END,
    c.user_id, c.sequence, c.position, c.partition, c.operation, c.change, c.traceparent
FROM changes AS c LEFT JOIN records AS r ON c.is_last AND r.identity = c.request;

-- The records of other requests: those that were refused, that changed nothing, or whose change
-- was not audited.
INSERT INTO ident_log (at, request, digest, user_id, operation, code, message)
SELECT DISTINCT ON (r.identity) r.at, r.identity, r.digest, r.user_id, 'unknown', r.code, r.message
FROM ident_requests AS r WHERE NOT EXISTS (SELECT FROM ident_log AS l WHERE l.request = r.identity)
ORDER BY r.identity, r.at DESC;

DROP TABLE ident_requests, ident_outbox, ident_audit;
DROP FUNCTION ident_slot(timestamptz);
DROP FUNCTION ident_audit_day(date);
