-- Writes that are replicated from another database are writes of another program
-- too. So are writes with session_replication_role = replica.
ALTER TABLE users ENABLE ALWAYS TRIGGER ident_foreign;
ALTER TABLE services ENABLE ALWAYS TRIGGER ident_foreign;

-- Replication fires row triggers, and statement triggers for TRUNCATE only. In other
-- sessions the row triggers do not fire.
CREATE TRIGGER ident_foreign_row AFTER INSERT OR UPDATE OR DELETE ON users
    FOR EACH ROW WHEN (current_setting('application_name') NOT LIKE 'glotpod.ident/%')
    EXECUTE FUNCTION ident_foreign();

CREATE TRIGGER ident_foreign_row AFTER INSERT OR UPDATE OR DELETE ON services
    FOR EACH ROW WHEN (current_setting('application_name') NOT LIKE 'glotpod.ident/%')
    EXECUTE FUNCTION ident_foreign();

ALTER TABLE users ENABLE REPLICA TRIGGER ident_foreign_row;
ALTER TABLE services ENABLE REPLICA TRIGGER ident_foreign_row;
