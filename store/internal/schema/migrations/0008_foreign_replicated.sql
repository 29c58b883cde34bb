-- Writes that are replicated from elsewhere, or made as if they were
-- (session_replication_role), are another program's writes too.
ALTER TABLE users ENABLE ALWAYS TRIGGER ident_foreign;
ALTER TABLE services ENABLE ALWAYS TRIGGER ident_foreign;

-- Whoever applies what was replicated fires triggers for rows alone, but for
-- TRUNCATE. All others do not notice these.
CREATE TRIGGER ident_foreign_row AFTER INSERT OR UPDATE OR DELETE ON users
    FOR EACH ROW WHEN (current_setting('application_name') NOT LIKE 'glotpod.ident/%')
    EXECUTE FUNCTION ident_foreign();

CREATE TRIGGER ident_foreign_row AFTER INSERT OR UPDATE OR DELETE ON services
    FOR EACH ROW WHEN (current_setting('application_name') NOT LIKE 'glotpod.ident/%')
    EXECUTE FUNCTION ident_foreign();

ALTER TABLE users ENABLE REPLICA TRIGGER ident_foreign_row;
ALTER TABLE services ENABLE REPLICA TRIGGER ident_foreign_row;
