-- The record of which request changed what. The transaction that changes a user
-- for a request also adds one row. A request that changes nothing adds no row. A
-- write of another program adds no row either.
--
-- Each day in UTC has its own partition, so that old days can be dropped. Rows of
-- a day without a partition go to ident_audit_rest.
CREATE TABLE ident_audit (
    committed_at timestamptz NOT NULL DEFAULT now(),
    user_id      int  NOT NULL,
    operation    text NOT NULL, -- create, patch or delete
    request      uuid,          -- the request id, as ident_request computes it; NULL: it had none
    traceparent  text,          -- of the request or, if the service traces, of its span "process"
    changes      json NOT NULL  -- a JSON Patch from the earlier to the later state of the user, without access tokens
) PARTITION BY RANGE (committed_at);

CREATE TABLE ident_audit_rest PARTITION OF ident_audit DEFAULT;

-- With this index, old rows are found without a scan of the whole table.
CREATE INDEX ON ident_audit_rest (committed_at);

-- Creates the partition of a day. Transactions that write to the partitions of other
-- days do not wait. ident_audit_rest is locked while it is scanned for rows of that
-- day. Transactions that read ident_audit, or write to ident_audit_rest, wait for that.
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

-- The request id: computed from message_id or, if the request has none, from reply_to
-- and correlation_id.
CREATE FUNCTION ident_request(message_id text) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN encode(substring(sha256('m'::bytea || convert_to(message_id, 'UTF8')) FOR 16), 'hex')::uuid;

CREATE FUNCTION ident_request(reply_to text, correlation_id text) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN encode(substring(sha256('r'::bytea || substring(int4send(octet_length(convert_to(reply_to, 'UTF8'))) FROM 3) ||
        convert_to(reply_to, 'UTF8') || convert_to(correlation_id, 'UTF8')) FOR 16), 'hex')::uuid;
