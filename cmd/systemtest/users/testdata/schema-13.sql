-- A database as version 13 of the schema left it, with 4 partitions. An instance without access
-- tokens in notifications was killed; one with them was stopped. A queue refused all
-- notifications since the second patch of each user. The key is
--     xYdIpq_oLFrjI_qhbP8qzCqgRRrnoQG6PfiwCq0y450=
-- How: glotpod-ident call --message-id …, then pg_dump --no-owner --no-privileges --inserts,
-- without comments and settings.

CREATE TYPE public.svc_type AS ENUM (
    'fb',
    'gh'
);
CREATE FUNCTION public.ident_audit_day(day date) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    name text := 'ident_audit_' || to_char(day, 'YYYYMMDD');
BEGIN
    -- Nothing is updated or deleted there.
    EXECUTE format('CREATE TABLE %I (LIKE ident_audit INCLUDING DEFAULTS) WITH (autovacuum_vacuum_insert_threshold = -1)', name);
    EXECUTE format('ALTER TABLE ident_audit ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name,
        day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
END
$$;
CREATE FUNCTION public.ident_fold(name text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN regexp_replace(CASE WHEN (octet_length(name) = length(name)) THEN lower(name) ELSE "normalize"(replace(replace(replace(replace(lower("normalize"(name, 'NFKD'::text)), 'i̇'::text, 'i'::text), 'ß'::text, 'ss'::text), 'ς'::text, 'σ'::text), 'ͅ'::text, 'ι'::text), 'NFKC'::text) END, '[!-/:-@[-`{-~]+'::text, ' '::text, 'g'::text);
CREATE FUNCTION public.ident_foreign() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('ident_foreign', '');
    RETURN NULL;
END
$$;
CREATE FUNCTION public.ident_request(message_id text) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (encode(SUBSTRING(sha256(('\x6d'::bytea || convert_to(message_id, 'UTF8'::name))) FROM 1 FOR 16), 'hex'::text))::uuid;
CREATE FUNCTION public.ident_request(reply_to text, correlation_id text) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (encode(SUBSTRING(sha256(((('\x72'::bytea || SUBSTRING(int4send(octet_length(convert_to(reply_to, 'UTF8'::name))) FROM 3)) || convert_to(reply_to, 'UTF8'::name)) || convert_to(correlation_id, 'UTF8'::name))) FROM 1 FOR 16), 'hex'::text))::uuid;
CREATE FUNCTION public.ident_search(words text) RETURNS tsquery
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (SELECT (string_agg((quote_literal(w.lexeme) || ':*'::text), ' & '::text))::tsquery AS string_agg FROM unnest(to_tsvector('simple'::regconfig, public.ident_fold(ident_search.words))) w(lexeme, positions, weights));
CREATE FUNCTION public.ident_slot(at timestamp with time zone) RETURNS smallint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (((floor((EXTRACT(epoch FROM (at - '1970-01-01 00:00:00+00'::timestamp with time zone)) / (86400)::numeric)))::bigint % (3)::bigint))::smallint;
CREATE FUNCTION public.ident_words(name text) RETURNS tsvector
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN to_tsvector('simple'::regconfig, public.ident_fold("left"(name, 1000)));
CREATE TABLE public.ident_audit (
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id bigint NOT NULL,
    operation text NOT NULL,
    request uuid,
    traceparent text,
    changes json NOT NULL
)
PARTITION BY RANGE (committed_at);
CREATE TABLE public.ident_audit_20261129 (
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id bigint NOT NULL,
    operation text NOT NULL,
    request uuid,
    traceparent text,
    changes json NOT NULL
)
WITH (autovacuum_vacuum_insert_threshold='-1');
CREATE TABLE public.ident_audit_20261130 (
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id bigint NOT NULL,
    operation text NOT NULL,
    request uuid,
    traceparent text,
    changes json NOT NULL
)
WITH (autovacuum_vacuum_insert_threshold='-1');
CREATE TABLE public.ident_audit_20261201 (
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id bigint NOT NULL,
    operation text NOT NULL,
    request uuid,
    traceparent text,
    changes json NOT NULL
)
WITH (autovacuum_vacuum_insert_threshold='-1');
CREATE TABLE public.ident_audit_20261202 (
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id bigint NOT NULL,
    operation text NOT NULL,
    request uuid,
    traceparent text,
    changes json NOT NULL
)
WITH (autovacuum_vacuum_insert_threshold='-1');
CREATE TABLE public.ident_audit_20261203 (
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id bigint NOT NULL,
    operation text NOT NULL,
    request uuid,
    traceparent text,
    changes json NOT NULL
)
WITH (autovacuum_vacuum_insert_threshold='-1');
CREATE TABLE public.ident_audit_20261204 (
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id bigint NOT NULL,
    operation text NOT NULL,
    request uuid,
    traceparent text,
    changes json NOT NULL
)
WITH (autovacuum_vacuum_insert_threshold='-1');
CREATE TABLE public.ident_audit_20261205 (
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id bigint NOT NULL,
    operation text NOT NULL,
    request uuid,
    traceparent text,
    changes json NOT NULL
)
WITH (autovacuum_vacuum_insert_threshold='-1');
CREATE TABLE public.ident_audit_20261206 (
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id bigint NOT NULL,
    operation text NOT NULL,
    request uuid,
    traceparent text,
    changes json NOT NULL
)
WITH (autovacuum_vacuum_insert_threshold='-1');
CREATE TABLE public.ident_audit_rest (
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    user_id bigint NOT NULL,
    operation text NOT NULL,
    request uuid,
    traceparent text,
    changes json NOT NULL
);
CREATE TABLE public.ident_cluster (
    one boolean DEFAULT true NOT NULL,
    partitions integer NOT NULL,
    queue_type text NOT NULL,
    table_version integer NOT NULL,
    rebound_at timestamp with time zone,
    CONSTRAINT ident_cluster_one_check CHECK (one)
);
CREATE TABLE public.ident_migrations (
    version integer NOT NULL,
    name text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    oldest integer
);
CREATE TABLE public.ident_outbox (
    id bigint NOT NULL,
    user_id bigint NOT NULL,
    message_id uuid NOT NULL,
    routing_key text NOT NULL,
    body bytea NOT NULL,
    sealed boolean NOT NULL,
    traceparent text,
    committed_at timestamp with time zone DEFAULT now() NOT NULL,
    partition integer
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');
ALTER TABLE public.ident_outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.ident_outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.ident_partitions (
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    holder text,
    holder_start bigint,
    holder_session bigint,
    released boolean NOT NULL,
    claimed_at timestamp with time zone
)
WITH (fillfactor='30');
CREATE TABLE public.ident_requests (
    identity uuid NOT NULL,
    slot smallint NOT NULL,
    digest bigint NOT NULL,
    user_id bigint NOT NULL,
    code text,
    message text,
    at timestamp with time zone DEFAULT now() NOT NULL
)
PARTITION BY LIST (slot);
CREATE TABLE public.ident_requests_0 (
    identity uuid NOT NULL,
    slot smallint NOT NULL,
    digest bigint NOT NULL,
    user_id bigint NOT NULL,
    code text,
    message text,
    at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.ident_requests_1 (
    identity uuid NOT NULL,
    slot smallint NOT NULL,
    digest bigint NOT NULL,
    user_id bigint NOT NULL,
    code text,
    message text,
    at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE public.ident_requests_2 (
    identity uuid NOT NULL,
    slot smallint NOT NULL,
    digest bigint NOT NULL,
    user_id bigint NOT NULL,
    code text,
    message text,
    at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE SEQUENCE public.ident_starts
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE public.services (
    user_id bigint NOT NULL,
    sv_id bigint NOT NULL,
    sv_name public.svc_type NOT NULL,
    access_token bytea NOT NULL
);
CREATE TABLE public.users (
    id bigint NOT NULL,
    name character varying NOT NULL,
    picture_url character varying,
    email_address character varying NOT NULL
);
CREATE SEQUENCE public.users_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.users_id_seq OWNED BY public.users.id;
ALTER TABLE ONLY public.ident_audit ATTACH PARTITION public.ident_audit_20261129 FOR VALUES FROM ('2026-11-29 00:00:00+00') TO ('2026-11-30 00:00:00+00');
ALTER TABLE ONLY public.ident_audit ATTACH PARTITION public.ident_audit_20261130 FOR VALUES FROM ('2026-11-30 00:00:00+00') TO ('2026-12-01 00:00:00+00');
ALTER TABLE ONLY public.ident_audit ATTACH PARTITION public.ident_audit_20261201 FOR VALUES FROM ('2026-12-01 00:00:00+00') TO ('2026-12-02 00:00:00+00');
ALTER TABLE ONLY public.ident_audit ATTACH PARTITION public.ident_audit_20261202 FOR VALUES FROM ('2026-12-02 00:00:00+00') TO ('2026-12-03 00:00:00+00');
ALTER TABLE ONLY public.ident_audit ATTACH PARTITION public.ident_audit_20261203 FOR VALUES FROM ('2026-12-03 00:00:00+00') TO ('2026-12-04 00:00:00+00');
ALTER TABLE ONLY public.ident_audit ATTACH PARTITION public.ident_audit_20261204 FOR VALUES FROM ('2026-12-04 00:00:00+00') TO ('2026-12-05 00:00:00+00');
ALTER TABLE ONLY public.ident_audit ATTACH PARTITION public.ident_audit_20261205 FOR VALUES FROM ('2026-12-05 00:00:00+00') TO ('2026-12-06 00:00:00+00');
ALTER TABLE ONLY public.ident_audit ATTACH PARTITION public.ident_audit_20261206 FOR VALUES FROM ('2026-12-06 00:00:00+00') TO ('2026-12-07 00:00:00+00');
ALTER TABLE ONLY public.ident_audit ATTACH PARTITION public.ident_audit_rest DEFAULT;
ALTER TABLE ONLY public.ident_requests ATTACH PARTITION public.ident_requests_0 FOR VALUES IN ('0');
ALTER TABLE ONLY public.ident_requests ATTACH PARTITION public.ident_requests_1 FOR VALUES IN ('1');
ALTER TABLE ONLY public.ident_requests ATTACH PARTITION public.ident_requests_2 FOR VALUES IN ('2');
ALTER TABLE ONLY public.users ALTER COLUMN id SET DEFAULT nextval('public.users_id_seq'::regclass);
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:45.099882+00', 1, 'create', 'f6926dbd-faad-c102-6f8b-57ca457354f0', NULL, '[{"op":"add","path":"","value":{"email":"s3cret-1@secret.example","github":{"id":1},"id":1,"name":"s3cret Ada 1"}}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:45.162262+00', 2, 'create', 'a5199dae-ee6c-0389-dcbb-a79a87c6f951', NULL, '[{"op":"add","path":"","value":{"email":"s3cret-2@secret.example","github":{"id":2},"id":2,"name":"s3cret Ada 2"}}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:45.439758+00', 4, 'create', 'b847ae13-ba0e-ce32-b909-281b9636795e', NULL, '[{"op":"add","path":"","value":{"email":"s3cret-3@secret.example","github":{"id":3},"id":4,"name":"s3cret Ada 3"}}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:45.470786+00', 3, 'create', 'b346b1fe-721a-6c3e-8dde-aac2832f43f0', NULL, '[{"op":"add","path":"","value":{"email":"s3cret-4@secret.example","github":{"id":4},"id":3,"name":"s3cret Ada 4"}}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:45.510501+00', 6, 'create', '3d005a35-307a-3273-d3ce-d901bcdb242d', NULL, '[{"op":"add","path":"","value":{"email":"s3cret-5@secret.example","github":{"id":5},"id":6,"name":"s3cret Ada 5"}}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:45.530079+00', 5, 'create', 'c85baff3-c474-86d2-6263-d4a8b820489a', NULL, '[{"op":"add","path":"","value":{"email":"s3cret-6@secret.example","github":{"id":6},"id":5,"name":"s3cret Ada 6"}}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:45.585146+00', 8, 'create', 'b5cd3a78-0344-d7af-4026-c86adc370a8c', NULL, '[{"op":"add","path":"","value":{"email":"s3cret-7@secret.example","github":{"id":7},"id":8,"name":"s3cret Ada 7"}}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:45.879557+00', 7, 'create', '04c259d0-019f-916e-2eb6-fd5ca20816c2', NULL, '[{"op":"add","path":"","value":{"email":"s3cret-8@secret.example","github":{"id":8},"id":7,"name":"s3cret Ada 8"}}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:45.995446+00', 1, 'patch', '22b0599f-92cc-8d2b-dcbb-885c0abe08c4', NULL, '[{"op":"replace","path":"/name","value":"s3cret first"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:46.019439+00', 2, 'patch', 'ad361e70-aa69-a3cc-60d0-cf78a748118e', NULL, '[{"op":"replace","path":"/name","value":"s3cret first"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:46.044254+00', 3, 'patch', '78c199b6-de2c-2562-568f-c6961cad944f', NULL, '[{"op":"replace","path":"/name","value":"s3cret first"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:46.066042+00', 4, 'patch', '33a67ab2-6c35-eac8-0cb3-26ead6066dcd', NULL, '[{"op":"replace","path":"/name","value":"s3cret first"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:46.085689+00', 5, 'patch', 'ac120201-a5a9-774e-5809-fa19ecdc3fa8', NULL, '[{"op":"replace","path":"/name","value":"s3cret first"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:46.10337+00', 6, 'patch', '5db4fd1f-fad9-081e-7ddb-b74b0ce83bee', NULL, '[{"op":"replace","path":"/name","value":"s3cret first"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:46.132832+00', 7, 'patch', '19a23fbc-9e22-3735-b64c-20058a722d03', NULL, '[{"op":"replace","path":"/name","value":"s3cret first"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:46.246127+00', 8, 'patch', 'f928011a-7bac-e78f-911c-cae8d4c6b2cc', NULL, '[{"op":"replace","path":"/name","value":"s3cret first"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.449024+00', 1, 'patch', 'bfd19bc5-f95d-7cdb-c32e-c6b942239124', NULL, '[{"op":"replace","path":"/name","value":"s3cret 2"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.488321+00', 2, 'patch', '9458ed60-8470-56ab-ecb4-3e51d0ba0294', NULL, '[{"op":"replace","path":"/name","value":"s3cret 2"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.531767+00', 3, 'patch', '16f355dd-a0f2-1fa2-1708-4322758a995e', NULL, '[{"op":"replace","path":"/name","value":"s3cret 2"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.559075+00', 4, 'patch', '97be1ee3-a62d-0aa1-f9cb-801b82d061e2', NULL, '[{"op":"replace","path":"/name","value":"s3cret 2"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.592577+00', 5, 'patch', '6de1a713-3b21-84a8-65f1-bba59752a4e6', NULL, '[{"op":"replace","path":"/name","value":"s3cret 2"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.620038+00', 6, 'patch', '763bf5a5-7050-5342-cbbf-91a2724735db', NULL, '[{"op":"replace","path":"/name","value":"s3cret 2"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.650493+00', 7, 'patch', 'fa1a5c3b-9298-cc0e-6fa5-31457a433be1', NULL, '[{"op":"replace","path":"/name","value":"s3cret 2"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.677351+00', 8, 'patch', 'bf87960b-a5f5-6282-0963-5359f70415df', NULL, '[{"op":"replace","path":"/name","value":"s3cret 2"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.708471+00', 1, 'patch', '6a0225f0-733e-2c09-ccdb-fddc39d52687', NULL, '[{"op":"replace","path":"/name","value":"s3cret 3"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.725616+00', 2, 'patch', '893abf59-1f33-b3fa-dd75-ab9cd616999e', NULL, '[{"op":"replace","path":"/name","value":"s3cret 3"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.749592+00', 3, 'patch', '03d8df9c-13bd-9c3d-0292-410ad1cfe6d3', NULL, '[{"op":"replace","path":"/name","value":"s3cret 3"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.77478+00', 4, 'patch', '5cc609a0-8133-4ef2-a8ff-71254bc2189d', NULL, '[{"op":"replace","path":"/name","value":"s3cret 3"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.793267+00', 5, 'patch', '22f93774-9264-17a3-b0cf-ff5c654989b0', NULL, '[{"op":"replace","path":"/name","value":"s3cret 3"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.816949+00', 6, 'patch', '1372c87d-6ffa-994b-0f30-8f951a8ade03', NULL, '[{"op":"replace","path":"/name","value":"s3cret 3"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.839891+00', 7, 'patch', '54a936fb-fbd0-dee4-9678-97646d07070b', NULL, '[{"op":"replace","path":"/name","value":"s3cret 3"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:48.873184+00', 8, 'patch', '9739db16-062c-73ea-be88-cef5889bd028', NULL, '[{"op":"replace","path":"/name","value":"s3cret 3"},{"op":"replace","path":"/github/access_token"}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:49.296269+00', 3, 'delete', '9b1ab314-1886-6344-ea0b-d0874fdd4174', NULL, '[{"op":"remove","path":""}]');
INSERT INTO public.ident_audit_20261129 VALUES ('2026-11-29 09:13:49.321885+00', 10, 'create', 'd6e8e25c-50c5-1470-4b0a-3073b5fdf72a', NULL, '[{"op":"add","path":"","value":{"email":"s3cret-9@secret.example","facebook":{"id":9},"id":10,"name":"s3cret Last"}}]');
INSERT INTO public.ident_cluster VALUES (true, 4, 'quorum', 1, NULL);
INSERT INTO public.ident_migrations VALUES (1, 'users', '2026-11-29 09:13:39.701433+00', 1);
INSERT INTO public.ident_migrations VALUES (2, 'wide_service_ids', '2026-11-29 09:13:39.701433+00', 2);
INSERT INTO public.ident_migrations VALUES (3, 'name_search', '2026-11-29 09:13:39.701433+00', 3);
INSERT INTO public.ident_migrations VALUES (4, 'requests', '2026-11-29 09:13:39.701433+00', 4);
INSERT INTO public.ident_migrations VALUES (5, 'outbox', '2026-11-29 09:13:39.701433+00', 5);
INSERT INTO public.ident_migrations VALUES (6, 'partitions', '2026-11-29 09:13:39.701433+00', 6);
INSERT INTO public.ident_migrations VALUES (7, 'audit', '2026-11-29 09:13:39.701433+00', 6);
INSERT INTO public.ident_migrations VALUES (8, 'foreign_replicated', '2026-11-29 09:13:39.701433+00', 6);
INSERT INTO public.ident_migrations VALUES (9, 'slot_inlined', '2026-11-29 09:13:39.701433+00', 6);
INSERT INTO public.ident_migrations VALUES (10, 'wide_user_ids', '2026-11-29 09:13:39.701433+00', 6);
INSERT INTO public.ident_migrations VALUES (11, 'name_search_folded', '2026-11-29 09:13:39.701433+00', 6);
INSERT INTO public.ident_migrations VALUES (12, 'request_age', '2026-11-29 09:13:39.701433+00', 6);
INSERT INTO public.ident_migrations VALUES (13, 'outbox_by_partition', '2026-11-29 09:13:39.701433+00', 6);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (17, 1, '5b2c7a5f-4ba2-43fe-8f7d-037e440b2579', 'notifications.user.patch', '\x6741414141414272432d7a4d33753239493732777967503975427276326b7579754442714e4e5f47584e5161454845304a305979574e774e6f48556a57515a6e7335694f6334625a62576f503349754d3058683852513062357a423946766f58324b6c7330373043442d304a6d6c47495473666b675f4c307477305755454530487959704a686e647042616266574231557778447879734e4f76334a3756656553596f72356776444e65666738467966537633694d4a6f54584f696d536f643750354734796e6764396d6665443278682d3169634e6f4365384e70565a4335384445715f4b546462686e7a5a6e575743774150686d34483877654f5255787a7a3337474441754d792d784f754c6333574d57745a34435839546633465952656671513d3d', true, NULL, '2026-11-29 09:13:48.449024+00', 2);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (18, 2, '175abf3a-cdec-47ec-b6e8-905c6133f3fa', 'notifications.user.patch', '\x6741414141414272432d7a4d366a53354f59444e386861756b4d4a50375f756a70564a714d765a6330582d4b70774471724d56316653516c576e67575a7a49667230615363586d774f4b7a7354716c534c43334574613874393539466449552d46544e4e71555141596c764f67376f7550446558596244577932697765515f7630656f475a795a6a41637576394d63344a41546746645838474f387438456c50686854394137746e3835435457765f6736345f704730504d396c66616239535763596e6955596977753549655934307478706e353852497446487a776c314d31526d5a4e43315353486a3957525869474d6b444b74712d745137364677486a6b56544a4f5155677a316d476a32703755425a78414136706b5f475866636669416d513d3d', true, NULL, '2026-11-29 09:13:48.488321+00', 2);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (19, 3, 'bd9c8c95-9b85-4369-be78-74513af72f68', 'notifications.user.patch', '\x6741414141414272432d7a4d5578574963416151437962734a62495f7747432d7a5a6e30485f736453766464594638496163754e376845413553444d69305745692d585f537463494f6f7a52426e6971797757657245726647314c79625557797551794e6c5f47393937545f6f54434e65616b74583865343638385351464945425a74484f577172424a43756d6d7a4f4f5743474874474150424f66626a754a727863494c53774532667a47474963593759785377526d465755654c5f436d6b717959616d596153766c783432343361623777645337487079515062486b48556252676f63414846454b6446366c68656b583433594c4b7832483955566c7873664b674842337a434b58797a5f344e434c4e4137576e6d7a674a596e6d4c704f4d513d3d', true, NULL, '2026-11-29 09:13:48.531767+00', 2);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (20, 4, '1c2bf629-2b30-4ced-99bd-4f8e00d610ad', 'notifications.user.patch', '\x6741414141414272432d7a4d515557746e4153504e765441324d6a363557733144305f56676363424475424a6f6636316f3666687766534a71515f30476b343346454672475f52304474536a636e516a7569596f6c5f2d6b574e674e412d444e31396651567331796159704a5332634a717a6c4f316d50496a4648677971375457374d557a6a4d4c5356483739736f31624e68394d6d4f2d355771385f32367451643176706172307332365447664e5f6339465065416970336d4855534a733868366b5f5952322d5857423177687365514938377277576f54684f38613857724e793837583344534d636564644f5958337277797176366b61794a344368584974686f69696e6b59525546754f32446749636978684a4a4c486e47514f53536f46413d3d', true, NULL, '2026-11-29 09:13:48.559075+00', 0);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (21, 5, '9704fca1-cd03-4e51-a7bf-b18a60d2b97c', 'notifications.user.patch', '\x6741414141414272432d7a4d61447a7364303975503638696e4a754f6544324f53722d476d664c53584f686f5877666646575a4e6934564736754f7355384b53696855373535336752706c397053663776323734473663474e703279417a4f556f344f535f595f563373666143685a41475956674c514e354a655455517a464b5a4a3044314e5976384f506b62374f4f5f4b335744754c7266396b544749383379456c425a5a74383658613437642d76584255472d3178496431504542674b432d4d3241653959447a78614e4e514673776767776a52397a684c7a5a51596b675f6a682d6e747a44355669394138427673364445735a6c4b696f2d3170634151526468412d6453766974396f7a437a4c4732574e63497945776d754d475064396c413d3d', true, NULL, '2026-11-29 09:13:48.592577+00', 0);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (22, 6, 'aa8f3b10-c68e-468a-bdc2-3941adae9c5f', 'notifications.user.patch', '\x6741414141414272432d7a4d3232584f54524c546c77784b3745486f556b4a566c6d4b344c774542724941634e377967575a76514f523253516c766c6d38464f5735435148654d435554655a4679786846786b525368412d6d322d694c58462d397253486f346d706e57506657463072573265307a5a6c336a4650584457486f32744439594d74677a6f5a74782d6f663841586e576c5f764a34486537786f714c6641453061323265466d5a655031587156413949532d756530677554627a32784239634e34435a6d4156494a68547832664d58355465673944505f5857576a4a7141736c7651744b4665787263744d335f437648375a50574c44346f4d4f5a4350486b6f46304e7174635a34527a564147703641726c62494f4c55306f714550673d3d', true, NULL, '2026-11-29 09:13:48.620038+00', 3);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (23, 7, 'e089087d-629c-41f3-af9f-c8049f7387f1', 'notifications.user.patch', '\x6741414141414272432d7a4d544e4973676d774562724d79582d42354f6779544e524b5976656f59793761526f636f47444a6f4e4544463631717a4e6c6b4e42796e336b6b734d59366730675451695861786b46685379676a564c6b3274323872686b426b6278495251705173655138624c592d5874746561314a676d6d395754445443345a666944574975335a64584162797758536167775a306351426f6a4f4949632d715f507664634c5473424d506e7972587a4542732d7951734446597264776c6a565a584d77712d4f4c48472d6c2d4d4549427769586e3758515a3745793759624837394f6b783538326a2d6b30476566566946546e52617175664a584b59364b5463766b37584f4b6338627764615379667774576557364b4b547832773d3d', true, NULL, '2026-11-29 09:13:48.650493+00', 2);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (24, 8, '355952d3-d6f5-42fc-abfa-a1fdc795610e', 'notifications.user.patch', '\x7b226f7073223a5b7b226f70223a227265706c616365222c2270617468223a222f6e616d65222c2276616c7565223a227333637265742032227d5d2c22757365725f6964223a387d', false, NULL, '2026-11-29 09:13:48.677351+00', 1);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (25, 1, '7f081d9d-d0d6-4fe9-84af-d0fcc382a6bc', 'notifications.user.patch', '\x6741414141414272432d7a4d33663758626168324c6979442d595f4953346874575a6b666b5a454e4f495172634549494c4a765857645a5f7759494a556f464f385f47697a545365694848706b2d4e4d5478444d6b50775837505738656c50367938305f7473656f7562417a655a7566716348797467594e4d7251564f5633422d4952344e66534d435a316a76386d4b56375a357078644e67596731433054413053434666506739394d2d324b6a4a676b2d786d62695f67466c764750714952617675624a4f6d6d307a372d6166714444506473664d324768442d5871663267724546494d32674e6d644b417252312d766663484d34534d5f31714361645836764738557938735642314953434c333766686e67464537524e646b313447555849513d3d', true, NULL, '2026-11-29 09:13:48.708471+00', 2);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (26, 2, 'f10ac4c8-a5bc-4f48-bd70-1190eb9dfbbf', 'notifications.user.patch', '\x6741414141414272432d7a4d346f4555585a695941536c386a6e4b494c6a48446d386e4b4d39416733486167386b753448484b70794a4b55376759524c2d6a6350495835444857334944694f664b624471335a6b766b356c50633336714a5a30394c3253675447344f4e696b4935365a334248485f6b395970667a594b4e6d396730624764635767334151734a723872383854492d673930467a315278716d50486350323331335143475f4971424b304e423577634a7a5135447644716a476763486d583850716174532d3332336a456f7165316e38327036626751516d55475431744370716b2d70525a48456f5176665561684a3854754d31795a7638325157665867517251763332574378386b4c4e454c38463463627a5639614b796e3962513d3d', true, NULL, '2026-11-29 09:13:48.725616+00', 2);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (27, 3, '58a36af5-817d-42e3-85d9-8bec672ef30a', 'notifications.user.patch', '\x6741414141414272432d7a4d57685a4b7a746b335f53425630432d7477795a6d426d4562744e3531506242733131457059574330632d75617158383472646870736d547731396b6f466c5242424f364e74426a336b6b5f505667453246346a553949496a4c674e785a6f68663445356d776e474355495466432d65655843474a306749676152464e317648514131416378795a4c5a74456532546a747867444f7271497373776761446c2d7635654d334341664a4c6639526d63433234674e6e724b68756e52747542787463314d706d7778346a6231584856706b5748506b445156737443466c3232316b6a59624d553241537a36485f53695f53613032666b634c5762574b675743587a77626b4263556e3342655f71334c4d3344504f484e79413d3d', true, NULL, '2026-11-29 09:13:48.749592+00', 2);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (28, 4, '197a0d85-a957-48c8-8dfa-fc3a15a13eb4', 'notifications.user.patch', '\x6741414141414272432d7a4d484159364b667a2d37756e505659664431373155485931646a5137444559496e614d41616c6f644146466367484b414674503137636f44454e3877675f414f456233503862396c34477a3130696641457a6f726675454734556d6437386f584c6f65722d5861576a5738415f726965787a476a4d6d374c504b76347871537238724872566e72754558456f64644c326d314b72387a4f5156436550744d4656647379374e4a6b6b566a583063546f68373344342d6c3859657a4a59396955347368526765393756505963693062506a3076664f657346456639555062726156546d532d6135315248304a57373738324b36534a5679622d4e505f507874676b515a475a594f68785471663534467a7a4435724a4c59673d3d', true, NULL, '2026-11-29 09:13:48.77478+00', 0);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (29, 5, '770cb7a9-5553-4892-ab88-ce8a6f95353d', 'notifications.user.patch', '\x6741414141414272432d7a4d77332d333679634f5f64765034536443423049654b74614b41427749316a424e73327434535056775230497a41683154726b694c574374782d6834674130776d4170625f5575414e4a384169756b6d5971574f37484f736d326f4848464c7a6364793134616177737478334a3530463347354d757762627547372d584d695870696c6b4d534a7a39712d346e4d396e51435738576f4d6d41737844734d4f33344e735569434b4a6e6267432d377775517264357a33664e326234467568693672477458324a3678672d68656f7133576a5a546a726570354868706d736d696c53737a30376b4455556c4853387051626d53454e74766e533536395967636164475f4b3577564177624256647a3647324b52616e5558513d3d', true, NULL, '2026-11-29 09:13:48.793267+00', 0);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (30, 6, '244e7962-e228-4907-8035-2559d34885ed', 'notifications.user.patch', '\x6741414141414272432d7a4d43565153785330477565637a794a317558396f64575a4739766a3333496d59546c666f6a556e595345496d7848686168337a34725442744d4c7837324d65516b477a59624a72484c374a306862755278456b42644353696d37416a6f50585a413070536e6b385968785a34746d33527570744473346d784872365f795838376b44436f36726c704b5135716d4b49783531576c6f36334f6236316a45526a69495264467951546a584c506969683145775a47766342523450434b615a54454a5f463454514c38573931424e4444434f64553444455a582d46636b2d2d533765656273305363366c63757773764d4a7370583551536c5a4c544f67536a384b4c6f6271614f6e346e456b68344c50446d4734514f492d673d3d', true, NULL, '2026-11-29 09:13:48.816949+00', 3);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (31, 7, 'c9ed516c-989d-49e7-b17d-4162463c87cb', 'notifications.user.patch', '\x6741414141414272432d7a4d54555654416e67727236717042564c68664b2d5238393246456e70356745306c57697057426d64327334757933474a59312d376337565678455f694865684f43556c63744c59304a49756b7a6a2d5251754252504374336c2d7274786a78695670504e34613341646e4c444469665568364657464232634c6f4f563674747a6b684968636e774c646a58597a7537635a50315f5438703276425558787755795f416e7472736b635f454e765953483436545a42543650525861526f4a7a6f4a746875497a38355857576c726d524869315f6d41714876756d494b4e6a707954394b6b77666c2d5663637a653175384532706435446b77364a63786f655679686b4e43363330726e4d39654e78537841576242497430773d3d', true, NULL, '2026-11-29 09:13:48.839891+00', 2);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (32, 8, 'cc1e69d0-b4bd-495a-a275-0930d812c6b5', 'notifications.user.patch', '\x7b226f7073223a5b7b226f70223a227265706c616365222c2270617468223a222f6e616d65222c2276616c7565223a227333637265742033227d5d2c22757365725f6964223a387d', false, NULL, '2026-11-29 09:13:48.873184+00', 1);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (33, 1, '2343ab12-6947-492c-85a1-715181b3eae6', 'notifications.user.patch', '\x6741414141414272432d7a4d375a436c67594b7a394731414a715130615a587a766e443644734f523056364850394d76633979644b3046533752616870707956457a4e434b354e6b6338516a434131684f646a4b50644f537736327667496530334e3158477331316a78374d655158324b4838457151513d', true, NULL, '2026-11-29 09:13:48.920251+00', 2);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (34, 2, '571c57db-7b5b-4c53-8667-a7a735ea7e51', 'notifications.user.patch', '\x6741414141414272432d7a4d306b50553157337352714e483774616a742d58374d46626865314d4979314f722d437365444c426751335476553463563371637648374a744d693973486d56596162684863346b385a4d5f6a6d59536935714553574a47787377306c726e5834477977634a5132593471493d', true, NULL, '2026-11-29 09:13:48.942359+00', 2);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (35, 3, '67bd248d-8a98-4d65-b249-35f28f733ca9', 'notifications.user.patch', '\x6741414141414272432d7a4d5542444b6e4174326757626c544f6766454d5938734a616c45537335666931345665716535424c4a4a425647706d77464350556771325f586e54514a4e644d64536f4c5a4278654163534b736435335773686449544d7376494e6c324e736b375231495973704c522d56493d', true, NULL, '2026-11-29 09:13:48.979438+00', 2);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (36, 4, '0459ceec-f7b3-4a5d-93fd-34211287264f', 'notifications.user.patch', '\x6741414141414272432d7a4e6549557a31335632627a72364b65364b445a78694365516a614847766f3834585053375852754e324e5f65456c6b2d51547462534a306b324d2d4e504a473458363755765374543972774449684f4166626f69364d7a4d6f516c68723132697a48584632436c475a4858513d', true, NULL, '2026-11-29 09:13:49.00715+00', 0);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (37, 5, '0aa4e5df-29e6-4a92-9254-4c2b9bc3122b', 'notifications.user.patch', '\x6741414141414272432d7a4e48686f3139545158585a707837766c487769584d51476a596c6f6d30357a4779454f34533974506c506a4e58554e75733945764257504551346e4331616a5047554a6f6e345a343631493279523956477553595068354d31535632534f364b6f2d357677697473475f62513d', true, NULL, '2026-11-29 09:13:49.092723+00', 0);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (38, 6, 'a98b5e1a-69a7-43f5-ae5d-4d12d20072e7', 'notifications.user.patch', '\x6741414141414272432d7a4e635478587039516237323856517a5471306f4d46306e714a3065545a644569376832704c446f74516366714c637a6b59676e48515779306a65525a737447722d355a4b685058375936737934377155533273454f5631375950744d7a4e336e52743479676b6661513155673d', true, NULL, '2026-11-29 09:13:49.137202+00', 3);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (39, 7, 'fc9b0496-4a4a-4591-a58d-976c7ad833a6', 'notifications.user.patch', '\x6741414141414272432d7a4e334f33776633475665594578774a6a45754a5f78645363576857333878786d68436d626c5831704435704f564634557534645a34777a3737437441584a50775738706f554b693371427858446d61726b3631556d5a546937434f64416d626e3842484171624f78455661673d', true, NULL, '2026-11-29 09:13:49.182651+00', 2);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (40, 8, 'e3570fca-2ff1-4a51-9f0c-d4958b87983b', 'notifications.user.patch', '\x7b226f7073223a5b5d2c22757365725f6964223a387d', false, NULL, '2026-11-29 09:13:49.250054+00', 1);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (41, 3, '4f3d6aaf-dd6a-4ad1-aaa6-40b1c918f045', 'notifications.user.delete', '\x7b22757365725f6964223a337d', false, NULL, '2026-11-29 09:13:49.296269+00', 2);
INSERT INTO public.ident_outbox OVERRIDING SYSTEM VALUE VALUES (42, 10, 'c0e67bbc-e783-4871-b07d-889870288897', 'notifications.user.create', '\x6741414141414272432d7a4e5a6563653961656c5a6c664846797655574a35586a5f4b475964645776656b666c4e3468564f6954754359332d4b38437543306e7a65736e5f6435704a474b3975535f646977354a5464317072696a72586d48456351764f5f6f663846527356514c68634e50695a637a4f4270547433796d5974524a736152554c752d336b65775a5170654838636d36713131414b6d46384b37557164785f6c4871366d466a7665766135535f6b565f6448475a3843796e35395359435f72472d42474f3159664235583353346b3239766f484666644e63396754673d3d', true, NULL, '2026-11-29 09:13:49.321885+00', 2);
INSERT INTO public.ident_partitions VALUES (1, 1, 'plain', 1, 1, false, '2026-11-29 09:13:40.641585+00');
INSERT INTO public.ident_partitions VALUES (2, 1, 'tokens', 2, 1, true, '2026-11-29 09:13:40.941298+00');
INSERT INTO public.ident_partitions VALUES (3, 1, 'tokens', 2, 1, true, '2026-11-29 09:13:40.941298+00');
INSERT INTO public.ident_partitions VALUES (0, 1, 'tokens', 2, 1, true, '2026-11-29 09:13:40.941298+00');
INSERT INTO public.ident_requests_2 VALUES ('f6926dbd-faad-c102-6f8b-57ca457354f0', 2, 3216567200014392449, 1, NULL, NULL, '2026-11-29 09:13:45.099882+00');
INSERT INTO public.ident_requests_2 VALUES ('a5199dae-ee6c-0389-dcbb-a79a87c6f951', 2, -1709246697679306840, 2, NULL, NULL, '2026-11-29 09:13:45.162262+00');
INSERT INTO public.ident_requests_2 VALUES ('b847ae13-ba0e-ce32-b909-281b9636795e', 2, 2966197717557040154, 4, NULL, NULL, '2026-11-29 09:13:45.439758+00');
INSERT INTO public.ident_requests_2 VALUES ('b346b1fe-721a-6c3e-8dde-aac2832f43f0', 2, -6171727361256737199, 3, NULL, NULL, '2026-11-29 09:13:45.470786+00');
INSERT INTO public.ident_requests_2 VALUES ('3d005a35-307a-3273-d3ce-d901bcdb242d', 2, -1442207599229164750, 6, NULL, NULL, '2026-11-29 09:13:45.510501+00');
INSERT INTO public.ident_requests_2 VALUES ('c85baff3-c474-86d2-6263-d4a8b820489a', 2, -7172306285327055761, 5, NULL, NULL, '2026-11-29 09:13:45.530079+00');
INSERT INTO public.ident_requests_2 VALUES ('b5cd3a78-0344-d7af-4026-c86adc370a8c', 2, -3255324960885858504, 8, NULL, NULL, '2026-11-29 09:13:45.585146+00');
INSERT INTO public.ident_requests_2 VALUES ('04c259d0-019f-916e-2eb6-fd5ca20816c2', 2, -3001697792665421756, 7, NULL, NULL, '2026-11-29 09:13:45.879557+00');
INSERT INTO public.ident_requests_2 VALUES ('547ee930-15cf-fa0b-905c-dd7431adfcda', 2, -3451037369237867263, 0, 'conflict', 'another user has this email', '2026-11-29 09:13:45.906973+00');
INSERT INTO public.ident_requests_2 VALUES ('d7306640-5548-9fe7-8219-e268f877f23a', 2, 7689752502561184751, 0, 'not_found', 'no such user', '2026-11-29 09:13:45.951009+00');
INSERT INTO public.ident_requests_2 VALUES ('22b0599f-92cc-8d2b-dcbb-885c0abe08c4', 2, -2590464558364333543, 1, NULL, NULL, '2026-11-29 09:13:45.995446+00');
INSERT INTO public.ident_requests_2 VALUES ('ad361e70-aa69-a3cc-60d0-cf78a748118e', 2, 7538081935157050421, 2, NULL, NULL, '2026-11-29 09:13:46.019439+00');
INSERT INTO public.ident_requests_2 VALUES ('78c199b6-de2c-2562-568f-c6961cad944f', 2, -3074774058734085219, 3, NULL, NULL, '2026-11-29 09:13:46.044254+00');
INSERT INTO public.ident_requests_2 VALUES ('33a67ab2-6c35-eac8-0cb3-26ead6066dcd', 2, 4948572378988953319, 4, NULL, NULL, '2026-11-29 09:13:46.066042+00');
INSERT INTO public.ident_requests_2 VALUES ('ac120201-a5a9-774e-5809-fa19ecdc3fa8', 2, -6779380571127500645, 5, NULL, NULL, '2026-11-29 09:13:46.085689+00');
INSERT INTO public.ident_requests_2 VALUES ('5db4fd1f-fad9-081e-7ddb-b74b0ce83bee', 2, 2893619545623328066, 6, NULL, NULL, '2026-11-29 09:13:46.10337+00');
INSERT INTO public.ident_requests_2 VALUES ('19a23fbc-9e22-3735-b64c-20058a722d03', 2, -4780997751394142762, 7, NULL, NULL, '2026-11-29 09:13:46.132832+00');
INSERT INTO public.ident_requests_2 VALUES ('f928011a-7bac-e78f-911c-cae8d4c6b2cc', 2, 4314575243459057499, 8, NULL, NULL, '2026-11-29 09:13:46.246127+00');
INSERT INTO public.ident_requests_2 VALUES ('bfd19bc5-f95d-7cdb-c32e-c6b942239124', 2, 7683125944416364557, 1, NULL, NULL, '2026-11-29 09:13:48.449024+00');
INSERT INTO public.ident_requests_2 VALUES ('9458ed60-8470-56ab-ecb4-3e51d0ba0294', 2, 6912644170695205227, 2, NULL, NULL, '2026-11-29 09:13:48.488321+00');
INSERT INTO public.ident_requests_2 VALUES ('16f355dd-a0f2-1fa2-1708-4322758a995e', 2, 6527694949078453917, 3, NULL, NULL, '2026-11-29 09:13:48.531767+00');
INSERT INTO public.ident_requests_2 VALUES ('97be1ee3-a62d-0aa1-f9cb-801b82d061e2', 2, -1387657576174018317, 4, NULL, NULL, '2026-11-29 09:13:48.559075+00');
INSERT INTO public.ident_requests_2 VALUES ('6de1a713-3b21-84a8-65f1-bba59752a4e6', 2, 7320612622869742878, 5, NULL, NULL, '2026-11-29 09:13:48.592577+00');
INSERT INTO public.ident_requests_2 VALUES ('763bf5a5-7050-5342-cbbf-91a2724735db', 2, 8065329505369811557, 6, NULL, NULL, '2026-11-29 09:13:48.620038+00');
INSERT INTO public.ident_requests_2 VALUES ('fa1a5c3b-9298-cc0e-6fa5-31457a433be1', 2, -8086615007659648853, 7, NULL, NULL, '2026-11-29 09:13:48.650493+00');
INSERT INTO public.ident_requests_2 VALUES ('bf87960b-a5f5-6282-0963-5359f70415df', 2, -6082040527905527486, 8, NULL, NULL, '2026-11-29 09:13:48.677351+00');
INSERT INTO public.ident_requests_2 VALUES ('6a0225f0-733e-2c09-ccdb-fddc39d52687', 2, 6103580490744960888, 1, NULL, NULL, '2026-11-29 09:13:48.708471+00');
INSERT INTO public.ident_requests_2 VALUES ('893abf59-1f33-b3fa-dd75-ab9cd616999e', 2, 3994213085712173727, 2, NULL, NULL, '2026-11-29 09:13:48.725616+00');
INSERT INTO public.ident_requests_2 VALUES ('03d8df9c-13bd-9c3d-0292-410ad1cfe6d3', 2, -5410337231142832983, 3, NULL, NULL, '2026-11-29 09:13:48.749592+00');
INSERT INTO public.ident_requests_2 VALUES ('5cc609a0-8133-4ef2-a8ff-71254bc2189d', 2, -3577878746472038815, 4, NULL, NULL, '2026-11-29 09:13:48.77478+00');
INSERT INTO public.ident_requests_2 VALUES ('22f93774-9264-17a3-b0cf-ff5c654989b0', 2, 2709169945964183230, 5, NULL, NULL, '2026-11-29 09:13:48.793267+00');
INSERT INTO public.ident_requests_2 VALUES ('1372c87d-6ffa-994b-0f30-8f951a8ade03', 2, 3125314938987935510, 6, NULL, NULL, '2026-11-29 09:13:48.816949+00');
INSERT INTO public.ident_requests_2 VALUES ('54a936fb-fbd0-dee4-9678-97646d07070b', 2, -6228085516729306053, 7, NULL, NULL, '2026-11-29 09:13:48.839891+00');
INSERT INTO public.ident_requests_2 VALUES ('9739db16-062c-73ea-be88-cef5889bd028', 2, 6855553786445408324, 8, NULL, NULL, '2026-11-29 09:13:48.873184+00');
INSERT INTO public.ident_requests_2 VALUES ('8c5009c3-5390-7e54-90df-efec9180fcd8', 2, -3029455143373191657, 1, NULL, NULL, '2026-11-29 09:13:48.920251+00');
INSERT INTO public.ident_requests_2 VALUES ('045c9e3d-ab53-b1a7-7a1b-2f14d64f4fec', 2, -1680973867336028101, 2, NULL, NULL, '2026-11-29 09:13:48.942359+00');
INSERT INTO public.ident_requests_2 VALUES ('2ec1f136-1c2e-bb3e-b69d-f8e98acbef23', 2, -3136568960669140507, 3, NULL, NULL, '2026-11-29 09:13:48.979438+00');
INSERT INTO public.ident_requests_2 VALUES ('3c7336e2-7de8-659b-0988-2592144ed25c', 2, -4691769970485850345, 4, NULL, NULL, '2026-11-29 09:13:49.00715+00');
INSERT INTO public.ident_requests_2 VALUES ('b9aa62f7-a7ba-1b0e-7433-e56aef0aebb6', 2, -191185662938209740, 5, NULL, NULL, '2026-11-29 09:13:49.092723+00');
INSERT INTO public.ident_requests_2 VALUES ('d5e53278-b7d9-40e6-8b26-b19aa46f3a99', 2, -3761156534066677072, 6, NULL, NULL, '2026-11-29 09:13:49.137202+00');
INSERT INTO public.ident_requests_2 VALUES ('33b1e360-21c6-0b5e-01ec-3c6b082f6969', 2, -1503838122384559702, 7, NULL, NULL, '2026-11-29 09:13:49.182651+00');
INSERT INTO public.ident_requests_2 VALUES ('36f7f714-4dd1-76e1-4901-cbcbadab0989', 2, -8424582033191567481, 8, NULL, NULL, '2026-11-29 09:13:49.250054+00');
INSERT INTO public.ident_requests_2 VALUES ('9b1ab314-1886-6344-ea0b-d0874fdd4174', 2, -3099291074567571911, 3, NULL, NULL, '2026-11-29 09:13:49.296269+00');
INSERT INTO public.ident_requests_2 VALUES ('d6e8e25c-50c5-1470-4b0a-3073b5fdf72a', 2, -6961302058696690832, 10, NULL, NULL, '2026-11-29 09:13:49.321885+00');
INSERT INTO public.services VALUES (1, 1, 'gh', '\x6741414141414272432d7a4d444d32674348553741442d7a343661456d6755437771574947595a78655247696572394449556d76716a614e6b5377677639493479694437377a5f76593170315a68505f4f344859546c7767547948353864417954773d3d');
INSERT INTO public.services VALUES (2, 2, 'gh', '\x6741414141414272432d7a4d756761704f67557a614f50395a347472702d4562584c4c704e51796e6c41644f7578434e31527969503976664375655a6b6b784a49765367716a786265515474555652654d46634e4353677648315848685938506e513d3d');
INSERT INTO public.services VALUES (4, 3, 'gh', '\x6741414141414272432d7a4d465a3143783950634167387048387446734e6c37776972506c785f4f4544446753764367477576552d69416b6e45556b58726f593743504933613030337a656e685a61784948354d56537648706c4f4f54316b6f74773d3d');
INSERT INTO public.services VALUES (5, 6, 'gh', '\x6741414141414272432d7a4d5948586743385972415f2d5475443255345263516768447441475130775a70634131636655536a575a674251647451386e4a356e7658662d5877793157674f38453177627a31464c374366334654714772594d5f62673d3d');
INSERT INTO public.services VALUES (6, 5, 'gh', '\x6741414141414272432d7a4d4a59597458324d6d2d792d38724269493966394d4e64504e76414e4f7363335439364e7835696e49396f65467a37685a737859437159454e744c326b2d355843464a6b5f326e36304f676a7962474e4d734f654b37673d3d');
INSERT INTO public.services VALUES (7, 8, 'gh', '\x6741414141414272432d7a4d54307944307933616a4f313953446865776a7153746178504c594b6c613039647a577958465053364d48716f683134684643755267626f5675647a6538664a54776943727a506b5873624576424f6769505f653950773d3d');
INSERT INTO public.services VALUES (8, 7, 'gh', '\x6741414141414272432d7a4d3051484530546b644469796279676c7577697a346a6f52364e35544f4c507237705539334174793445485956387478786e7a38507a54346633624d6f374a6a714a7747436977424e4c764f33745f7845506b5f494a673d3d');
INSERT INTO public.services VALUES (10, 9, 'fb', '\x6741414141414272432d7a4e53743674555a4261375f4f6b4e4c4755774176424432694c47307a316d424c53614b75353232754e6254486878305330544e75675151416c4643344151783651505157457a4564716f513543362d3261535570476d413d3d');
INSERT INTO public.users VALUES (1, 's3cret 3', NULL, 's3cret-1@secret.example');
INSERT INTO public.users VALUES (2, 's3cret 3', NULL, 's3cret-2@secret.example');
INSERT INTO public.users VALUES (4, 's3cret 3', NULL, 's3cret-3@secret.example');
INSERT INTO public.users VALUES (5, 's3cret 3', NULL, 's3cret-6@secret.example');
INSERT INTO public.users VALUES (6, 's3cret 3', NULL, 's3cret-5@secret.example');
INSERT INTO public.users VALUES (7, 's3cret 3', NULL, 's3cret-8@secret.example');
INSERT INTO public.users VALUES (8, 's3cret 3', NULL, 's3cret-7@secret.example');
INSERT INTO public.users VALUES (10, 's3cret Last', NULL, 's3cret-9@secret.example');
SELECT pg_catalog.setval('public.ident_outbox_id_seq', 42, true);
SELECT pg_catalog.setval('public.ident_starts', 2, true);
SELECT pg_catalog.setval('public.users_id_seq', 10, true);
ALTER TABLE ONLY public.ident_cluster
    ADD CONSTRAINT ident_cluster_pkey PRIMARY KEY (one);
ALTER TABLE ONLY public.ident_migrations
    ADD CONSTRAINT ident_migrations_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.ident_outbox
    ADD CONSTRAINT ident_outbox_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.ident_partitions
    ADD CONSTRAINT ident_partitions_pkey PRIMARY KEY (partition);
ALTER TABLE ONLY public.ident_requests
    ADD CONSTRAINT ident_requests_pkey PRIMARY KEY (identity, slot);
ALTER TABLE ONLY public.ident_requests_0
    ADD CONSTRAINT ident_requests_0_pkey PRIMARY KEY (identity, slot);
ALTER TABLE ONLY public.ident_requests_1
    ADD CONSTRAINT ident_requests_1_pkey PRIMARY KEY (identity, slot);
ALTER TABLE ONLY public.ident_requests_2
    ADD CONSTRAINT ident_requests_2_pkey PRIMARY KEY (identity, slot);
ALTER TABLE ONLY public.services
    ADD CONSTRAINT services_pkey PRIMARY KEY (user_id, sv_name);
ALTER TABLE ONLY public.services
    ADD CONSTRAINT services_sv_id_sv_name_key UNIQUE (sv_id, sv_name);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_email_address_key UNIQUE (email_address);
ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);
CREATE INDEX ident_audit_rest_committed_at_idx ON public.ident_audit_rest USING btree (committed_at);
CREATE INDEX ident_outbox_partition ON public.ident_outbox USING btree (partition, ((id + 0)));
CREATE INDEX services_by_service ON public.services USING btree (sv_name, ((user_id + 0)));
CREATE INDEX users_name_words ON public.users USING gin (public.ident_words((name)::text));
ALTER INDEX public.ident_requests_pkey ATTACH PARTITION public.ident_requests_0_pkey;
ALTER INDEX public.ident_requests_pkey ATTACH PARTITION public.ident_requests_1_pkey;
ALTER INDEX public.ident_requests_pkey ATTACH PARTITION public.ident_requests_2_pkey;
CREATE TRIGGER ident_foreign AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON public.services FOR EACH STATEMENT WHEN ((current_setting('application_name'::text) !~~ 'glotpod.ident/%'::text)) EXECUTE FUNCTION public.ident_foreign();
ALTER TABLE public.services ENABLE ALWAYS TRIGGER ident_foreign;
CREATE TRIGGER ident_foreign AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE ON public.users FOR EACH STATEMENT WHEN ((current_setting('application_name'::text) !~~ 'glotpod.ident/%'::text)) EXECUTE FUNCTION public.ident_foreign();
ALTER TABLE public.users ENABLE ALWAYS TRIGGER ident_foreign;
CREATE TRIGGER ident_foreign_row AFTER INSERT OR DELETE OR UPDATE ON public.services FOR EACH ROW WHEN ((current_setting('application_name'::text) !~~ 'glotpod.ident/%'::text)) EXECUTE FUNCTION public.ident_foreign();
ALTER TABLE public.services ENABLE REPLICA TRIGGER ident_foreign_row;
CREATE TRIGGER ident_foreign_row AFTER INSERT OR DELETE OR UPDATE ON public.users FOR EACH ROW WHEN ((current_setting('application_name'::text) !~~ 'glotpod.ident/%'::text)) EXECUTE FUNCTION public.ident_foreign();
ALTER TABLE public.users ENABLE REPLICA TRIGGER ident_foreign_row;
ALTER TABLE ONLY public.services
    ADD CONSTRAINT services_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id);
