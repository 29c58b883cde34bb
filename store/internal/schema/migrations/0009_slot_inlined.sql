-- The same result as before. PostgreSQL could not inline the old expression, because
-- extract from a timestamptz may depend on the time zone. So it planned the function
-- again for each statement. It can inline this one.
CREATE OR REPLACE FUNCTION ident_slot(at timestamptz) RETURNS smallint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (pg_catalog.floor(extract(epoch FROM at - timestamptz 'epoch') / 86400)::bigint % 3)::smallint;
