-- The same days as before, worded such that PostgreSQL puts the expression where the
-- function is called. It did not, since what extract takes from a timestamptz may depend
-- on the time zone; so it read and planned the function anew for each statement.
CREATE OR REPLACE FUNCTION ident_slot(at timestamptz) RETURNS smallint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (pg_catalog.floor(extract(epoch FROM at - timestamptz 'epoch') / 86400)::bigint % 3)::smallint;
