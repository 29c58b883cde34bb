-- The words of a name in lower case, for the list operation. Punctuation and
-- space separate words. Only the first 1,000 characters count, because the size
-- of a tsvector is limited.
CREATE FUNCTION ident_words(name text) RETURNS tsvector
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pg_catalog.to_tsvector('pg_catalog.simple'::regconfig,
        pg_catalog.regexp_replace(pg_catalog.left(name, 1000), '[!-/:-@[-`{-~]+', ' ', 'g'));

CREATE INDEX users_name_words ON users USING gin (ident_words(name));

-- Without statistics of these words, the planner would not use the index.
ANALYZE users;
