-- The tables of the Python service. If they exist, they stay as they are.
DO $$
BEGIN
    IF to_regtype('svc_type') IS NULL THEN
        CREATE TYPE svc_type AS ENUM ('fb', 'gh');
    END IF;
END
$$;

CREATE TABLE IF NOT EXISTS users (
    id            serial PRIMARY KEY,
    name          varchar NOT NULL,
    picture_url   varchar,
    email_address varchar NOT NULL UNIQUE
);

CREATE TABLE IF NOT EXISTS services (
    user_id      int NOT NULL REFERENCES users (id),
    sv_id        int NOT NULL,
    sv_name      svc_type NOT NULL,
    access_token bytea NOT NULL,
    PRIMARY KEY (sv_name, user_id),
    UNIQUE (sv_id, sv_name)
);
