-- The roles the sample database's owners, grants and policies name. Roles belong to the cluster, so no dump of a database
-- brings them: a restore target needs this file first. It can run twice.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['sample_owner', 'sample_reader', 'sample_app'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
END
$$;
GRANT sample_reader TO sample_app;
