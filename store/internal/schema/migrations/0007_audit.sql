-- Which request changed what for which user. One row is written with each change
-- that a request has made, by the transaction that makes it; none where it changed
-- nothing, nor for what another program writes.
--
-- Each day, one of UTC, has a partition of its own, so that old days can be dropped.
-- What finds none goes to ident_audit_rest.
CREATE TABLE ident_audit (
    committed_at timestamptz NOT NULL DEFAULT now(),
    user_id      int  NOT NULL,
    operation    text NOT NULL, -- create, patch or delete
    request      uuid,          -- its identity, as ident_request computes it; NULL: it had none
    traceparent  text,          -- the request's own or, where the service traces, that of its span process
    changes      json NOT NULL  -- a JSON Patch, from the user before to the user after, without access tokens
) PARTITION BY RANGE (committed_at);

CREATE TABLE ident_audit_rest PARTITION OF ident_audit DEFAULT;

-- By it, rows that are old are found without looking through the others.
CREATE INDEX ON ident_audit_rest (committed_at);

-- Makes the partition of a day. Who writes to the partitions of other days does not
-- wait for it. ident_audit_rest is locked while it is looked through for rows of that
-- day: so whoever reads ident_audit waits, or finds no partition to write to.
CREATE FUNCTION ident_audit_day(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := 'ident_audit_' || to_char(day, 'YYYYMMDD');
BEGIN
    -- Nothing is updated or deleted there.
    EXECUTE format('CREATE TABLE %I (LIKE ident_audit INCLUDING DEFAULTS) WITH (autovacuum_vacuum_insert_threshold = -1)', name);
    EXECUTE format('ALTER TABLE ident_audit ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name,
        day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
END
$$;

SELECT ident_audit_day(((now() AT TIME ZONE 'UTC')::date + n)::date) FROM generate_series(0, 7) AS n;

-- The identity of a request: of its message_id or, where it has none, of its reply_to
-- and correlation_id.
CREATE FUNCTION ident_request(message_id text) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN encode(substring(sha256('m'::bytea || convert_to(message_id, 'UTF8')) FOR 16), 'hex')::uuid;

CREATE FUNCTION ident_request(reply_to text, correlation_id text) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN encode(substring(sha256('r'::bytea || substring(int4send(octet_length(convert_to(reply_to, 'UTF8'))) FROM 3) ||
        convert_to(reply_to, 'UTF8') || convert_to(correlation_id, 'UTF8')) FOR 16), 'hex')::uuid;
