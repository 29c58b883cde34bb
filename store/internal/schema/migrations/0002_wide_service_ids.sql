-- In the order in which other programs use these tables. See 0010.
LOCK TABLE users, services;

-- Service ids need more than 32 bits. A change of the type rewrites the table, so
-- the type is changed only if necessary.
DO $$
BEGIN
    IF (SELECT atttypid FROM pg_attribute
        WHERE attrelid = 'services'::regclass AND attname = 'sv_id') <> 'bigint'::regtype THEN
        ALTER TABLE services ALTER COLUMN sv_id TYPE bigint;
    END IF;
END
$$;

-- The delete of a user finds its services by user_id alone. The primary key does
-- not help, because it begins with sv_name.
CREATE INDEX services_user_id ON services (user_id);
