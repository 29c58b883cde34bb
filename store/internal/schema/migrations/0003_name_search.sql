-- The words of a name, for the list operation: what punctuation and space
-- separate, in lower case. Only the first 1,000 characters count, since a
-- tsvector cannot hold just any text.
CREATE FUNCTION ident_words(name text) RETURNS tsvector
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pg_catalog.to_tsvector('pg_catalog.simple'::regconfig,
        pg_catalog.regexp_replace(pg_catalog.left(name, 1000), '[!-/:-@[-`{-~]+', ' ', 'g'));

CREATE INDEX users_name_words ON users USING gin (ident_words(name));

-- Without statistics of these words, the index would not be used.
ANALYZE users;
