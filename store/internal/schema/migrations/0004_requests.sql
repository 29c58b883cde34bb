-- The requests that were applied or refused, with the reply to their replays.
-- There are three slots, and each day writes to the next one. A slot is emptied
-- before its next day. So a record is kept for one to two days.
--
-- Days are in UTC. In the first ten minutes of a day, a record is also written
-- to the slot of the day before. If two transactions apply the same request
-- around midnight, and one sees the old day and the other one the new day, the
-- unique index of that slot lets only one of them commit.
CREATE TABLE ident_requests (
    identity uuid     NOT NULL,
    slot     smallint NOT NULL,
    digest   bigint   NOT NULL, -- of operation and arguments
    user_id  int      NOT NULL, -- the user that the request was about; 0: none
    code     text,              -- of the refusal; NULL: applied
    message  text,              -- of the refusal
    PRIMARY KEY (identity, slot)
) PARTITION BY LIST (slot);

CREATE TABLE ident_requests_0 PARTITION OF ident_requests FOR VALUES IN (0);
CREATE TABLE ident_requests_1 PARTITION OF ident_requests FOR VALUES IN (1);
CREATE TABLE ident_requests_2 PARTITION OF ident_requests FOR VALUES IN (2);

CREATE FUNCTION ident_slot(at timestamptz) RETURNS smallint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (pg_catalog.floor(extract(epoch FROM at) / 86400)::bigint % 3)::smallint;
