-- This function returns the same as before, but PostgreSQL can inline it. It could not
-- inline the former one, because extract from a timestamptz may depend on the time
-- zone. So it parsed and planned the function again for each statement.
CREATE OR REPLACE FUNCTION ident_slot(at timestamptz) RETURNS smallint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (pg_catalog.floor(extract(epoch FROM at - timestamptz 'epoch') / 86400)::bigint % 3)::smallint;
