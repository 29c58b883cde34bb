-- The requests that were applied or refused, with what a repeat of them is
-- answered. Each day writes to one of three slots in turn, so that a record
-- lives for one to two days and is then forgotten by emptying a slot.
--
-- A day is one of UTC. In its first ten minutes a record is written to the
-- slot of the day before as well: two transactions that carry the same request
-- at midnight, and do not see each other, then still meet in one unique index.
CREATE TABLE ident_requests (
    identity uuid     NOT NULL,
    slot     smallint NOT NULL,
    digest   bigint   NOT NULL, -- of operation and arguments
    user_id  int      NOT NULL, -- whom it was done to; 0: nobody
    code     text,              -- of the refusal; NULL: it was done
    message  text,              -- of the refusal
    PRIMARY KEY (identity, slot)
) PARTITION BY LIST (slot);

CREATE TABLE ident_requests_0 PARTITION OF ident_requests FOR VALUES IN (0);
CREATE TABLE ident_requests_1 PARTITION OF ident_requests FOR VALUES IN (1);
CREATE TABLE ident_requests_2 PARTITION OF ident_requests FOR VALUES IN (2);

CREATE FUNCTION ident_slot(at timestamptz) RETURNS smallint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (pg_catalog.floor(extract(epoch FROM at) / 86400)::bigint % 3)::smallint;
