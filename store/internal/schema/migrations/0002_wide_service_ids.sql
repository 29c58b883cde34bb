-- Service ids outgrow 32 bits. Changing the type rewrites the table, so it is
-- changed only where it has to be.
DO $$
BEGIN
    IF (SELECT atttypid FROM pg_attribute
        WHERE attrelid = 'services'::regclass AND attname = 'sv_id') <> 'bigint'::regtype THEN
        ALTER TABLE services ALTER COLUMN sv_id TYPE bigint;
    END IF;
END
$$;

-- The primary key begins with sv_name; deleting a user looks for the user's
-- services by user_id alone.
CREATE INDEX services_user_id ON services (user_id);
