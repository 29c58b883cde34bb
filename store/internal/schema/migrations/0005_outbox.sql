-- The pending notifications: committed with their changes, and not yet confirmed
-- by the broker. The ids of each user's notifications ascend in the order of the
-- changes.
CREATE TABLE ident_outbox (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id      int         NOT NULL,
    message_id   uuid        NOT NULL,
    routing_key  text        NOT NULL,
    body         bytea       NOT NULL,
    sealed       boolean     NOT NULL, -- body is a Fernet token
    traceparent  text,                 -- of the request
    committed_at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
