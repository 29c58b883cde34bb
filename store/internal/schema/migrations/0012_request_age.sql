-- When the request was decided. A request id that callers use again tells two requests apart
-- by it.
ALTER TABLE ident_requests ADD COLUMN at timestamptz NOT NULL DEFAULT now();
