-- What an RDS-like provider has in a customer's database; run there by the cluster's superuser.

SET SESSION AUTHORIZATION rdsadmin;
CREATE SCHEMA rds_tools;
GRANT USAGE ON SCHEMA rds_tools TO rds_superuser;
CREATE TABLE rds_tools.heartbeat (id integer PRIMARY KEY, at timestamptz NOT NULL);
INSERT INTO rds_tools.heartbeat VALUES (1, '2026-01-01 00:00+00');
-- Runs with the provider's rights.
CREATE FUNCTION rds_tools.setting(name text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    AS $$ SELECT pg_catalog.current_setting(name, true) $$;
REVOKE ALL ON FUNCTION rds_tools.setting(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rds_tools.setting(text) TO rds_superuser;
