-- The login at RabbitMQ of who has sent the request; NULL: not known.
ALTER TABLE ident_log ADD COLUMN caller text;
