-- Names are searched in the Unicode normalization form NFKC, and case-folded. The old
-- index was on the names as they are, in lower case.
DROP INDEX users_name_words;

-- Folds a text, and replaces punctuation by spaces. In addition to lower, which depends on
-- LC_CTYPE, it folds: the dot that a Turkish capital I leaves behind, the sharp s, the sigma
-- at the end of a word, and the iota below a letter. Only UTF8 has normalization forms;
-- other encodings have at most one form of each letter. ASCII needs none, which saves the
-- larger part of the time.
--
-- These functions are not strict: PostgreSQL could not inline a strict one with CASE.
DO $$
DECLARE
    folded text := 'pg_catalog.lower(name)';
BEGIN
    IF pg_catalog.getdatabaseencoding() = 'UTF8' THEN
        folded := 'CASE WHEN pg_catalog.octet_length(name) = pg_catalog.length(name) THEN pg_catalog.lower(name) ELSE
            pg_catalog.normalize(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
                pg_catalog.lower(pg_catalog.normalize(name, ''NFKD'')),
                U&''i\0307'', ''i''), U&''\00df'', ''ss''), U&''\03c2'', U&''\03c3''), U&''\0345'', U&''\03b9''), ''NFKC'') END';
    END IF;
    EXECUTE 'CREATE FUNCTION ident_fold(name text) RETURNS text
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN pg_catalog.regexp_replace(' || folded || ', ''[!-/:-@[-`{-~]+'', '' '', ''g'')';
END
$$;

CREATE OR REPLACE FUNCTION ident_words(name text) RETURNS tsvector
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN pg_catalog.to_tsvector('pg_catalog.simple'::regconfig, ident_fold(pg_catalog.left(name, 1000)));

-- The query for names in which, for each word of a text, a word begins with it. NULL: the
-- text has no words.
CREATE FUNCTION ident_search(words text) RETURNS tsquery
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(w.lexeme) || ':*', ' & ')::tsquery
        FROM pg_catalog.unnest(pg_catalog.to_tsvector('pg_catalog.simple'::regconfig, ident_fold(words))) AS w);

CREATE INDEX users_name_words ON users USING gin (ident_words(name));

-- Without statistics of these words, the planner would not use the index.
ANALYZE users;
